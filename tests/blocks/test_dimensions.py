"""Networks of signals and volumes: every named layer trains, and everything that is done to blocks works."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.layers import UNITS, layers, norms

SIZES = {1: (16,), 2: (8, 8), 3: (4, 4, 6)}
# Those of the package, whatever they are by then: tests register others.
NAMES = [name for name in layers if layers[name].__module__.startswith("dynamicblocks.")]
PLAIN = [f"{name}(8, dims={{dims}})" for name in NAMES]
VARIANTS = [
    *(f"{name}(8, dims={{dims}}, twist='vector')" for name in NAMES if layers.takes(name, "twist")),
    *(f"residual_unit(8, '{unit}', dims={{dims}})" for unit in UNITS),
    *(f"symmetric(8, norm={norm!r}, dims={{dims}})" for norm in norms),
    *(f"preact_single(8, boundary={boundary!r}, dims={{dims}})" for boundary in db.layers.BOUNDARIES),
]
other_dims = pytest.mark.parametrize("dims", [1, 3])


def examples(dims, count=8):
    """Waves along all axes, slow and fast ones: the class is which."""
    labels = torch.arange(count) % 2
    lines = [torch.linspace(0, 1, n) for n in SIZES[dims]]
    place = sum(torch.meshgrid(*lines, indexing="ij"))
    frequency = (2 + 6 * labels).view(-1, *(1,) * dims)
    phase = torch.rand(count).view(-1, *(1,) * dims)
    return torch.sin(frequency * place + 6 * phase).unsqueeze(1), labels


def network(layer, dims, **options):
    if layer.startswith("semi_implicit"):  # others do not read its operator
        options = {"integrator": "imex", **options}
    block = db.DynamicBlock(layer.format(dims=dims), "constant(2)", **options)
    connector = db.PooledConnector if dims == 1 else db.ResidualConnector
    last = db.DynamicBlock(layer.format(dims=dims), 1, **options)
    return db.DynamicNet(
        db.Opening(1, 8, dims=dims), [block, connector(8, 8, dims=dims), last], db.Head(8, 2, dims=dims)
    )


@pytest.mark.parametrize(("layer", "dims"), [*product(PLAIN, (1, 2, 3)), *product(VARIANTS, (1, 3))])
def test_a_network_of_every_named_layer_trains(layer, dims):
    net = network(layer, dims)
    images, labels = examples(dims)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@other_dims
@pytest.mark.parametrize("connector", ["pooled", "residual"])
@pytest.mark.parametrize("name", NAMES)
def test_the_named_model_takes_dims(dims, connector, name):
    options = {"widths": (4, 8), "layer": name, "in_channels": 1, "num_classes": 3, "connector": connector}
    net = db.create_model("dynamicnet", dims=dims, **options)
    assert net(torch.randn(2, 1, *SIZES[dims])).shape == (2, 3)
    flat = db.create_model("dynamicnet", **options)
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in flat.named_parameters()]


def test_layers_of_the_callers_own_in_the_named_model(monkeypatch):
    def own(width, *, norm, activation, boundary):
        return nn.Conv1d(width, width, 3, padding=1)

    monkeypatch.setattr(layers, "_factories", {**layers._factories, "own": own})
    with pytest.raises(
        db.ConfigurationError, match="layer 'own': got an unexpected keyword argument 'dims'; it is own"
    ):
        db.create_model("dynamicnet", layer="own", dims=1)
    net = db.create_model("dynamicnet", layer=lambda width: nn.Conv1d(width, width, 3, padding=1), dims=1)
    assert net(torch.randn(2, 3, 16)).shape == (2, 10)
    assert isinstance(db.create_model("dynamicnet", layer="own").blocks[0].controls.layers[0], nn.Conv1d)


@other_dims
def test_gradient_modes_agree(dims):
    y = torch.randn(2, 8, *SIZES[dims])
    found = []
    for gradient in ("backprop", "checkpoint"):
        torch.manual_seed(0)
        block = db.DynamicBlock(f"preact_double(8, dims={dims})", "linear(3)", integrator="rk4", gradient=gradient)
        block(y).square().sum().backward()
        found.append([weight.grad for weight in block.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@other_dims
def test_changes_of_networks(dims):
    net = db.create_model("dynamicnet", dims=dims, widths=(4, 8), in_channels=1, controls="linear", norm="tv").eval()
    y = torch.randn(2, 1, *SIZES[dims])
    expected = net(y)
    finer = db.with_integrator(db.refine(net), "rk4_classic", steps=16)
    exact = db.with_integrator(net, "dopri5(rtol=1e-4, atol=1e-5)")
    with torch.no_grad():
        torch.testing.assert_close(finer(y), exact(y), rtol=1e-3, atol=1e-3)
    assert db.project(net, "constant(2)")(y).shape == expected.shape
    assert len(db.twists(db.twist(net, stages="TF")).twisted) > 0
    assert torch.equal(torch.func.functional_call(net, dict(net.named_parameters()), (y,)), expected)


def test_parts_compile_as_one_graph():
    parts = [db.layers.Symmetric(2, boundary="reflect", dims=3), db.layers.PreactSingle(2, twist="vector", dims=3)]
    net = nn.Sequential(*parts, db.Head(2, 2, dims=3)).eval()
    y = torch.randn(1, 2, 3, 3, 4)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(y), net(y), rtol=1e-4, atol=1e-5)


class Pair(nn.Module):
    def forward(self, y):
        return y, y


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("integrator", ["euler", "rk4", "dopri5", "implicit_midpoint"])
def test_several_states_are_refused_with_the_ways_out(integrator, gradient):
    ways = r"concatenate several along the channels, torch\.cat.* split them in the layer, or use dynamicblocks\.solve"
    block = db.DynamicBlock("symmetric(4)", 2, integrator=integrator, gradient=gradient)
    y = torch.zeros(1, 4, 5, 5)
    for state in ((y, y), [y], {"y": y}):
        for call in (block, block.trajectory):
            with pytest.raises(db.ConfigurationError, match=f"must be a floating-point tensor, got .*: .*{ways}"):
                call(state)
    pair = db.DynamicBlock(Pair, 2, integrator=integrator, gradient=gradient)
    with pytest.raises(db.ConfigurationError, match=f"Pair must return a tensor, got tuple: .*{ways}"):
        pair(y)


def test_the_ways_out_of_several_states():
    class Rotation(nn.Module):
        def forward(self, y):
            position, speed = y.chunk(2, dim=1)
            return torch.cat((speed, -position), dim=1)

    y = torch.randn(3, 2, dtype=torch.float64)
    block = db.DynamicBlock(Rotation, 1, db.uniform(0, 1, steps=50), "rk4")
    found = db.solve(
        lambda t, state: (state[1], -state[0]),
        (y[:, :1], y[:, 1:]),
        torch.linspace(0, 1, 2).double(),
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(block(y), torch.cat([each[-1] for each in found.y], dim=1), rtol=0, atol=1e-8)
