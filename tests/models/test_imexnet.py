"""The semi-implicit network and its explicit partner."""

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import Symmetric
from dynamicblocks.layers.implicit_operators import ImplicitOperator

PARTNER = {"operator": None}


def small(**options):
    torch.manual_seed(0)
    return db.create_model("imexnet", **{"in_channels": 1, "num_classes": 4, **options}, widths=(4, 8), units=2)


def counted(net):
    """All weights, those of the classifier, those of norms."""
    norms = sum(
        weight.numel()
        for module in net.modules()
        if isinstance(module, nn.BatchNorm2d)
        for weight in module.parameters()
    )
    return net.num_weights, net.head.linear.weight.numel(), norms


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("options", "weights"), [({}, 2_703_744), (PARTNER, 2_691_648)])
def test_weight_counts_are_the_published_ones(options, weights, dense):
    every, classifier, norms = counted(db.create_model("imexnet", in_channels=1, num_classes=4, dense=dense, **options))
    assert classifier == 1024
    assert every - classifier - norms == weights


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("initial", ["published", "he"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        PARTNER,
        {"integrator": "imex"},
        {"integrator": "imex(balanced=True)", "operator": "depthwise(boundary='reflecting')"},
    ],
)
def test_every_weight_gets_a_gradient(options, initial, dense):
    net = small(dense=dense, initial=initial, **options)
    out = net(torch.randn(4, 1, 8, 8))
    assert out.shape == ((4, 4, 8, 8) if dense else (4, 4))
    (out * torch.randn_like(out)).sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_without_an_operator_it_is_its_partner():
    """To the last bit, without the second norm."""
    net, partner = small(integrator="imex").eval(), small(**PARTNER).eval()
    weights = {name.replace(".explicit", ""): weight for name, weight in net.state_dict().items()}
    partner.load_state_dict({name: weight for name, weight in weights.items() if ".operator." not in name})
    images = torch.randn(2, 1, 9, 7)
    assert not torch.equal(net(images), partner(images))
    for module in net.modules():
        if isinstance(module, ImplicitOperator):
            nn.init.zeros_(module.weight)
    assert torch.equal(net(images), partner(images))


def test_a_pixel_reaches_all_others_in_one_step():
    def reached(**options):
        net = small(dense=True, initial="he", **options).eval()
        body = net.body[0]
        image = torch.zeros(1, 4, 32, 32).double()
        body.double()
        touched = image.clone()
        touched[..., 0, 0] = 1
        one = db.with_integrator(body, times=[0.0, 1.0, 2.0])
        return ((one(touched) - one(image)).abs().amax((0, 1)) > 1e-12).float().mean()

    assert reached() == 1
    assert reached(**PARTNER) < 0.1


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims):
    shape = (2, 3, *(6,) * dims)
    for options in ({}, {"dense": True}, {"operator": "depthwise(boundary='reflecting')"}):
        out = small(in_channels=3, num_classes=5, dims=dims, boundary="replicate", **options)(torch.randn(*shape))
        assert out.shape == ((2, 5, *shape[2:]) if "dense" in options else (2, 5))


def test_options():
    pooled = small(in_channels=3, num_classes=10, pool="average", norm="tv", controls="linear", steps=4)
    assert pooled(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert [block.steps for block in pooled.blocks] == [4, 4]
    assert [len(block.controls) for block in pooled.blocks] == [3, 3]
    assert [block.integrator.shorthand for block in small().blocks] == ["imex(norm=True)"] * 2
    assert [block.integrator.shorthand for block in small(**PARTNER).blocks] == ["euler"] * 2
    with pytest.raises(db.ConfigurationError, match="published"):
        small(initial="publishd")


def test_published_weights_are_small_and_positive():
    for options in ({}, PARTNER):
        net = small(initial="published", **options)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | Symmetric):
                assert module.weight.min() >= 0
                assert 5e-4 < module.weight.max() <= 1e-3
            elif isinstance(module, ImplicitOperator):
                assert module.weight.min() >= 0
                assert 0.5 < module.weight.max() <= 1


def test_it_trains():
    """Which half of an image is bright: learnt in a few steps."""
    net = small(num_classes=2)
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    labels = torch.arange(16) % 2
    images = torch.randn(16, 1, 8, 8) * 0.3
    images[labels == 0, :, :4] += 1
    images[labels == 1, :, :, :4] += 1
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
