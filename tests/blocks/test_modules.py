"""Blocks and networks as ordinary modules: copies, pickles, memory formats, hooks, functional transforms, autocast."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

import dynamicblocks as db

NETS = {
    "dynamicnet": {"widths": (4, 8)},
    "dynamicnet_small": {},
    "dynamicblocks_rk4": {},
    "resnet20": {"unit": "b"},
}


@pytest.mark.parametrize("name", NETS)
def test_copies_and_pickles_compute_the_same(name):
    net = db.create_model(name, **NETS[name]).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = net(images)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)):
        assert torch.equal(other(images), expected)


@pytest.mark.parametrize("name", NETS)
def test_channels_last(name):
    net = db.create_model(name, **NETS[name])
    images = torch.randn(2, 3, 16, 16)
    expected = net(images)
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        other(images.contiguous(memory_format=torch.channels_last)), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("controls", ["constant(4)", "linear(5)"])
def test_a_state_dict_fits_every_integrator_grid_and_gradient(integrator, gradient, controls):
    block = db.DynamicBlock("symmetric(4, norm='batch')", controls, db.uniform(0, 4, steps=4))
    other = db.DynamicBlock(
        "symmetric(4, norm='batch')", controls, db.Grid((0, 0.3, 1, 2, 3.5, 4)), integrator, gradient
    )
    assert other.state_dict().keys() == block.state_dict().keys()
    assert all(name.startswith("controls.layers.") for name in block.state_dict())
    other.load_state_dict(block.state_dict(), strict=True)
    y = torch.randn(2, 4, 6, 6)
    back = db.with_integrator(other, "euler", steps=4).eval()
    assert torch.equal(back(y), block.eval()(y))


def test_hooks_on_a_control_run_once_for_each_evaluation():
    block = db.DynamicBlock("preact_single(4)", 3, db.uniform(0, 3, steps=6), "midpoint")
    calls = []
    block.controls.layers[1].register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(1, 4, 5, 5))
    assert len(calls) == 4


def test_functional_call_vmap_and_jacobians():
    block = db.DynamicBlock("symmetric(2)", "linear(3)", integrator="rk4_classic")
    y = torch.randn(3, 1, 2, 4, 4)
    weights = dict(block.named_parameters())
    mapped = vmap(lambda each: functional_call(block, weights, (each,)))(y)
    torch.testing.assert_close(mapped, torch.stack([block(each) for each in y]))
    gradients = jacrev(lambda w: functional_call(block, w, (y[0],)).square().sum())(weights)
    block(y[0]).square().sum().backward()
    for name, weight in block.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_gradcheck_of_state_and_weights(gradient, float64):
    block = db.DynamicBlock(
        "preact_single(2, norm='group(groups=1)', activation='tanh')", "linear(3)", 3, "heun3", gradient
    )
    names, weights = zip(*block.named_parameters(), strict=True)

    def solve(y, *values):
        return functional_call(block, dict(zip(names, values, strict=True)), (y,))

    with pytest.raises(db.ConfigurationError, match="spans"):
        db.with_integrator(block, times=3.5 * torch.arange(3))
    assert torch.autograd.gradcheck(solve, (torch.randn(1, 2, 3, 3, requires_grad=True), *weights))


@pytest.mark.parametrize("integrator", ["euler", "rk4_classic"])
def test_the_state_stays_float32_under_autocast(integrator):
    block = db.DynamicBlock("preact_single(4)", 4, integrator=integrator)
    seen = []
    for layer in block.controls.layers:
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = block(torch.randn(1, 4, 5, 5).bfloat16())
    assert y.dtype == torch.float32
    assert set(seen) == {torch.float32}


def test_low_precision_networks_are_left_as_they_are():
    block = db.DynamicBlock("preact_single(4)", 2).bfloat16()
    assert block(torch.randn(1, 4, 5, 5).bfloat16()).dtype == torch.bfloat16


def test_a_users_module_is_copied_and_initialised_anew():
    layer = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())
    block = db.DynamicBlock(layer, 3)
    kernels = [copied[0].weight for copied in block.controls.layers]
    assert all(not torch.equal(kernel, layer[0].weight) for kernel in kernels)
    assert not torch.equal(kernels[0], kernels[1])
    y = torch.randn(1, 4, 5, 5)
    expected = y
    for copied in block.controls.layers:
        expected = expected + copied(expected)
    assert torch.equal(block(y), expected)


def test_time_dependent_layers():
    class Forced(nn.Module):
        def forward(self, t, y):
            return torch.full_like(y, 3 * t**2)

    block = db.DynamicBlock(Forced, 1, db.uniform(0, 2, steps=2), "rk4_classic")
    assert block(torch.zeros(1)).item() == pytest.approx(8)


def test_trajectory_holds_every_state():
    block = db.DynamicBlock("preact_single(4)", 3).eval()
    y = torch.randn(2, 4, 5, 5)
    states = block.trajectory(y)
    for step, layer in enumerate(block.controls.layers):
        y = y + layer(y)
        assert torch.equal(states[step + 1], y)
    assert states.shape == (4, 2, 4, 5, 5)


def test_bad_states_layers_and_choices():
    wider = db.DynamicBlock(lambda: nn.Conv2d(4, 8, 1), 2)
    with pytest.raises(db.ConfigurationError, match=r"took \(1, 4, 5, 5\) to \(1, 8, 5, 5\)"):
        wider(torch.zeros(1, 4, 5, 5))

    class Pair(nn.Module):
        def forward(self, y):
            return y, y

    with pytest.raises(db.ConfigurationError, match="must return a tensor, got tuple"):
        db.DynamicBlock(Pair, 1)(torch.zeros(1))
    block = db.DynamicBlock("symmetric(4)", 2)
    with pytest.raises(db.ConfigurationError, match=r"got torch\.int64"):
        block(torch.zeros(1, 4, 5, 5, dtype=torch.int64))
    with pytest.raises(db.ConfigurationError, match="got list"):
        block([1.0])
    with pytest.raises(db.ConfigurationError, match="depth is unknown"):
        db.DynamicBlock("symmetric(4)")
    with pytest.raises(db.ConfigurationError, match="did you mean 'symmetric'"):
        db.DynamicBlock("symetric(4)", 2)
    with pytest.raises(db.ConfigurationError, match="one of steps"):
        db.with_integrator(block, "euler", steps=3, steps_per_control=2)
    with pytest.raises(db.ConfigurationError, match="no DynamicBlock"):
        db.refine(nn.Linear(2, 2))
    with pytest.raises(db.ConfigurationError, match="at least 2, got 1"):
        db.refine(block, 1)
    with pytest.raises(db.ConfigurationError, match=r"\(batch, 3, height, width\), got \(2, 1, 8, 8\)"):
        db.create_model("resnet20")(torch.zeros(2, 1, 8, 8))
