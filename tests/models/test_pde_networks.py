"""Parabolic, Hamiltonian, second-order and reversible networks, and the connector without weights."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.structure import structure, with_structure
from dynamicblocks.tasks import ModelConfig

CIFAR10, CIFAR100, STL10 = (32, 64, 112, 112), (32, 64, 128, 256), (16, 32, 64, 128, 128)
SMALL = {
    "parabolic_cnn": {"widths": (4, 8, 8), "units": 2},
    "hamiltonian_cnn": {"widths": (4, 8, 8), "units": 2},
    "second_order_cnn": {"widths": (4, 8, 8), "units": 2},
    "hamiltonian_resnet": {"depth": 26, "widths": (4, 8)},
    "midpoint_resnet": {"depth": 14, "widths": (4, 8)},
    "leapfrog_resnet": {"depth": 14, "widths": (4, 8)},
}


def small(name, **options):
    torch.manual_seed(0)
    return db.create_model(name, **{**SMALL[name], **options})


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        ("parabolic_cnn", {"widths": CIFAR10}, 502_570),
        ("hamiltonian_cnn", {"widths": CIFAR10}, 264_106),
        ("second_order_cnn", {}, 502_570),
        ("parabolic_cnn", {"widths": CIFAR100, "num_classes": 100}, 652_484),
        ("hamiltonian_cnn", {"widths": CIFAR100, "num_classes": 100}, 362_180),
        ("parabolic_cnn", {"widths": STL10}, 618_554),
        ("hamiltonian_cnn", {"widths": STL10}, 324_794),
        ("parabolic_cnn", {"widths": STL10, "units": 5}, 1_011_194),
        ("hamiltonian_resnet", {"depth": 74}, 432_010),
        ("hamiltonian_resnet", {"depth": 110}, 811_914),
        ("hamiltonian_resnet", {"depth": 218}, 1_690_890),
        ("hamiltonian_resnet", {"depth": 1202}, 9_699_338),
        ("hamiltonian_resnet", {"depth": 74, "num_classes": 100}, 442_180),
        ("hamiltonian_resnet", {"depth": 110, "num_classes": 100}, 823_524),
        ("hamiltonian_resnet", {"depth": 218, "num_classes": 100}, 1_702_500),
        ("hamiltonian_resnet", {"depth": 1202, "num_classes": 100}, 9_710_948),
        ("hamiltonian_resnet", {"depth": 74, "norm": "none"}, 427_082),
        ("hamiltonian_resnet", {"depth": 218, "norm": "none"}, 1_674_858),
    ],
)
def test_weight_counts_are_the_published_ones(name, options, weights):
    with torch.device("meta"):
        assert db.create_model(name, **options).num_weights == weights


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("options", [{}, {"norm": "none", "bias": None, "activation": "tanh"}, {"controls": "linear"}])
def test_every_weight_gets_a_gradient(name, options, float64):
    if name.endswith("_cnn") and "bias" in options:
        options = {**options, "bias": True}
    net = small(name, **options)
    net(torch.randn(8, 3, 8, 8)).square().sum().backward()
    unread = {
        f"{block_name}.controls.layers.{index}."
        for block_name, block in net.named_modules()
        if isinstance(block, db.DynamicBlock)
        for index in block.unused_controls()
    }
    without = [key for key, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [key for key in without if not key.startswith(tuple(unread))] == []
    assert not unread or options == {"controls": "linear"}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_networks_of_signals_images_and_volumes(name, dims):
    net = small(name, dims=dims, in_channels=2, num_classes=5)
    inputs = torch.randn(3, 2, *(8,) * dims, requires_grad=True)
    logits = net(inputs)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert inputs.grad.shape == inputs.shape
    assert inputs.grad.any()


@pytest.mark.parametrize("name", SMALL)
def test_refined_networks_are_the_same_equation_in_finer_steps(name, float64):
    # Without norms, and with steps short enough that the equation is near.
    net = small(name, norm="none", activation="tanh", step=0.25)
    images = torch.randn(4, 3, 8, 8)
    logits = [grown(images) for grown in (net, db.refine(net), db.refine(net, 4), db.refine(net, 8))]
    assert db.refine(net).blocks[0].steps == 2 * net.blocks[0].steps
    changes = [(finer - coarser).norm().item() for coarser, finer in pairwise(logits)]
    assert changes[2] < 0.7 * changes[1] < 0.49 * changes[0]


@pytest.mark.parametrize("name", SMALL)
def test_a_file_of_weights_holds_the_network(name):
    net = db.refine(small(name))
    net(torch.randn(4, 3, 8, 8))  # moves the statistics
    described = json.loads(json.dumps(structure(net)))
    again = with_structure(small(name), described)
    again.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(again.eval()(images), net.eval()(images))
    assert [block.integrator for block in again.blocks] == [block.integrator for block in net.blocks]


@pytest.mark.parametrize("name", [name for name in SMALL if name.endswith("_resnet")])
def test_steps_taken_back_give_the_gradients_of_backpropagation(name, float64):
    nets = [small(name), small(name, gradient="backprop")]
    images = torch.randn(4, 3, 8, 8)
    for net in nets:
        net(images).square().sum().backward()
    assert [net.blocks[0].gradient for net in nets] == [db.Reversible(), db.Backprop()]
    for (key, mine), theirs in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9, msg=key)
    for mine, theirs in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(mine, theirs)


def tv(y, weight, bias):
    return y * (torch.rsqrt(y.square().sum(1, keepdim=True) + 1e-4) * weight[:, None, None]) + bias[:, None, None]


def normalised(y, scale, shift):
    return torch.relu(F.batch_norm(y, None, None, scale, shift, training=True))


def test_the_parabolic_network_written_out(float64):
    net = small("parabolic_cnn", units=3)
    for weight in net.parameters():
        weight.data += 0.1 * torch.randn_like(weight)  # norms too
    images = torch.randn(2, 3, 8, 8)
    weights = iter(net.parameters())
    take = lambda: next(weights)  # noqa: E731
    y = normalised(F.conv2d(images, take(), padding=1), take(), take())
    for stage in range(2):
        for _ in range(3):
            kernel, scale, shift = take(), take(), take()
            y = y - F.conv_transpose2d(torch.relu(tv(F.conv2d(y, kernel, padding=1), scale, shift)), kernel, padding=1)
        y = normalised(F.conv2d(y, take()), take(), take())
        y = F.avg_pool2d(y, 2) if stage == 0 else y
    logits = F.linear(y.mean((2, 3)), take(), take())
    assert next(weights, None) is None
    assert torch.equal(net(images), logits)


@pytest.mark.parametrize(
    ("options", "inside", "around"),
    [
        ({}, "TVNorm", "BatchNorm2d"),
        ({"norm": "tv(weight=False)"}, "TVNorm", "BatchNorm2d"),
        ({"norm": "group"}, "GroupNorm", "GroupNorm"),
        ({"norm": "none"}, None, None),
        ({"norm": "tv", "connector_norm": "tv"}, "TVNorm", "TVNorm"),
        ({"norm": "none", "connector_norm": "batch"}, None, "BatchNorm2d"),
    ],
)
@pytest.mark.parametrize("name", ["parabolic_cnn", "hamiltonian_cnn"])
def test_norms_of_layers_and_around_them(name, options, inside, around):
    net = small(name, **options)

    def kinds(*parts):
        modules = [module for part in parts for module in part.modules()]
        return {type(module).__name__ for module in modules if "Norm" in type(module).__name__}

    connectors = [part for part in net.body if not isinstance(part, db.DynamicBlock)]
    assert kinds(*net.blocks) == {inside} - {None}
    assert kinds(net.opening, *connectors) == {around} - {None}
    assert kinds(net) == {inside, around} - {None}


@pytest.mark.parametrize("name", ["parabolic_cnn", "hamiltonian_cnn", "second_order_cnn"])
def test_published_draw(name):
    torch.manual_seed(0)
    net = db.create_model(name, initial="published", num_classes=100)
    with torch.device("meta"):
        assert net.num_weights == db.create_model(name, num_classes=100).num_weights
    classifier = torch.cat([weight.detach().flatten() for weight in net.head.linear.parameters()]).double()
    check_drawn(classifier, 0.1, 0.2, at_bound=BEYOND, within=WITHIN)
    first = [block.controls.layers[0] for block in net.blocks]
    for block, layer in zip(net.blocks, first, strict=True):
        assert len(block.controls.layers) == 3
        for other in block.controls.layers:
            for mine, theirs in zip(other.parameters(), layer.parameters(), strict=True):
                assert torch.equal(mine, theirs)
                assert mine is theirs or other is not layer
    kernels = [weight for part in (net.opening, *net.body) for weight in part.parameters() if weight.ndim > 1]
    assert len({kernel.data_ptr() for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        deviation = (2 / (kernel.shape[1] * kernel.shape[2])) ** 0.5
        # What lies beyond two deviations is drawn again from N(0, 1), and clipped where it lies there still.
        at_bound = BEYOND * (1 - math.erf(2 * deviation / math.sqrt(2)))
        within = WITHIN + BEYOND * math.erf(deviation / math.sqrt(2))
        check_drawn(kernel.detach().flatten().double(), deviation, 2 * deviation, at_bound, within)


# Shares of a normal draw within one deviation, and beyond two.
WITHIN, BEYOND = math.erf(math.sqrt(0.5)), 1 - math.erf(math.sqrt(2))


def check_drawn(drawn, deviation, bound, at_bound, within):
    """The shares at the bound and within one deviation, and the mean, to five deviations of what so many draws give."""
    size = drawn.abs()
    assert size.max() <= bound * (1 + 1e-6)
    for found, expected in ((size > bound * (1 - 1e-6), at_bound), (size < deviation, within)):
        assert abs(found.double().mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / len(drawn))
    assert abs(drawn.mean()) < 5 * deviation / math.sqrt(len(drawn))


def test_behind_batch_norm_the_classifier_tells_images_apart():
    torch.manual_seed(0)
    images = torch.randn(16, 3, 16, 16)
    spreads = {}
    for around in ("batch", "tv"):
        net = db.create_model("parabolic_cnn", widths=(8, 16, 16), initial="published", connector_norm=around)
        features = net.body(net.opening(images)).mean((2, 3))
        spreads[around] = features.std(0).mean().item()
    assert spreads["batch"] > 5 * spreads["tv"]


def test_the_first_stages_of_the_hamiltonian_network_written_out(float64):
    """As the published code computes them: the first unit of the second stage at the old width, then its padding."""
    net = small("hamiltonian_resnet")
    for weight in net.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    images = torch.randn(3, 3, 8, 8)
    weights = iter(net.parameters())
    take = lambda: next(weights)  # noqa: E731

    def unit(y, lead):
        kernel = take()
        if lead:
            y = normalised(y, take(), take())
        return F.conv_transpose2d(normalised(F.conv2d(y, kernel, padding=1), take(), take()), kernel, padding=1)

    y, z = normalised(F.conv2d(images, take(), padding=1), take(), take()).chunk(2, 1)
    for index in range(3):  # both units of the first stage, and the first one of the second
        y = y + unit(z, lead=index > 0)
        z = z - unit(y, lead=True)
    joined = [F.pad(F.avg_pool2d(half, 2), (0, 0, 0, 0, 1, 1)) for half in (y, z)]
    expected = torch.cat(joined, 1)
    assert torch.equal(net.body[:3](net.opening(images)), expected)
    y, z = joined
    y = y + unit(z, lead=True)
    z = z - unit(y, lead=True)
    logits = F.linear(normalised(torch.cat((y, z), 1), take(), take()).mean((2, 3)), take(), take())
    assert next(weights, None) is None
    assert torch.equal(net(images), logits)


def test_two_step_networks_written_out(float64):
    """Y(j+1) = Y(j-1) + 2 h a((K - K^T) Y(j) + b) and Y(j+1) = 2 Y(j) - Y(j-1) - h^2 K^T a(K Y(j) + b)."""
    for name in ("midpoint_resnet", "leapfrog_resnet"):
        net = small(name, norm="none", step=0.5, depth=26, widths=(4,))
        y = net.opening(torch.randn(2, 3, 6, 6))
        before, now = y, y
        for layer in net.blocks[0].controls.layers:
            conv = F.conv2d(now, layer.weight, padding=1)
            if name == "midpoint_resnet":
                bias = layer.bias_inside[:, None, None]
                slope = torch.relu(conv - F.conv_transpose2d(now, layer.weight, padding=1) + bias)
                step = now + 0.5 * slope if now is y else before + slope
            else:
                inside = torch.relu(conv + layer.bias_inside[:, None, None])
                force = -F.conv_transpose2d(inside, layer.weight, layer.bias_outside.neg(), padding=1)
                step = now + 0.125 * force if now is y else 2 * now - before + 0.25 * force
            before, now = now, step
        torch.testing.assert_close(net.body(y), now, rtol=1e-12, atol=1e-12)


def test_depth_widths_and_steps_are_those_asked_for():
    with torch.device("meta"):
        stages = {
            depth: [
                (block.controls.layers[0].width, block.steps)
                for block in db.create_model("hamiltonian_resnet", depth=depth).blocks
            ]
            for depth in (74, 110)
        }
        two_step = [
            [(block.controls.layers[0].width, block.steps) for block in db.create_model(name, depth=depth).blocks]
            for name, depth in (("midpoint_resnet", 26), ("leapfrog_resnet", 62))
        ]
    assert stages == {
        74: [(32, 1), (32, 6), (64, 6), (112, 5)],
        110: [(32, 1), (32, 9), (64, 9), (128, 8)],
    }
    assert two_step == [[(32, 5), (64, 4), (112, 3)], [(32, 11), (64, 10), (128, 9)]]
    net = ModelConfig(name="hamiltonian_cnn", widths=(4, 8, 8), units=4, step=0.25).create(1, 3)
    assert net.blocks[1].times.points == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hamiltonian_resnet", {"depth": 75}, r"depth must be 12 n \+ 2"),
        ("midpoint_resnet", {"depth": 2}, r"depth must be 6 n \+ 2"),
        ("leapfrog_resnet", {"widths": (8, 4)}, "cannot lower 8 channels to 4"),
        ("hamiltonian_cnn", {"widths": (5, 8, 8)}, "even"),
        ("parabolic_cnn", {"widths": (4,)}, "the one before the head"),
        ("parabolic_cnn", {"step": 0}, "must be positive"),
        ("second_order_cnn", {"units": 0}, "units"),
        ("parabolic_cnn", {"initial": "publishd"}, "did you mean 'published'"),
        ("parabolic_cnn", {"layer": "symetric"}, "did you mean 'symmetric'"),
        ("midpoint_resnet", {"integrator": "rk4"}, "reversible"),
    ],
)
def test_what_cannot_be_is_said(name, options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.create_model(name, **options)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pool", ["average", "max", "none"])
def test_padded_connectors_pool_and_pad_each_stream_on_both_sides(streams, dims, pool):
    connector = db.PaddedConnector(4, 10, pool=pool, streams=streams, dims=dims)
    assert list(connector.parameters()) == []
    y = torch.randn(2, 4, *(6,) * dims)
    found = connector(y)
    pooled = y.clone()
    if pool != "none":
        for axis in range(2, dims + 2):
            pairs = pooled.unflatten(axis, (-1, 2))
            pooled = pairs.mean(axis + 1) if pool == "average" else pairs.amax(axis + 1)
    assert found.shape == (2, 10, *(6 if pool == "none" else 3,) * dims)
    kept = [3, 4, 5, 6] if streams == 1 else [1, 2, 6, 7]
    torch.testing.assert_close(found[:, kept], pooled)
    assert not found[:, [channel for channel in range(10) if channel not in kept]].any()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((8, 4), {}, "cannot lower 8 channels to 4"),
        ((5, 8), {"streams": 2}, "in_channels must be a multiple of streams = 2, got 5"),
        ((4, 7), {"streams": 2}, "out_channels must be a multiple of streams = 2, got 7"),
        ((4, 8), {"pool": "mean"}, "pooling"),
        ((4, 8), {"streams": 0}, "streams"),
    ],
)
def test_padded_connectors_that_cannot_be(arguments, options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.PaddedConnector(*arguments, **options)


def test_states_that_a_padded_connector_cannot_take():
    connector = db.PaddedConnector(4, 8)
    with pytest.raises(db.ConfigurationError, match="leaves nothing"):
        connector(torch.randn(2, 4, 1, 1))
    with pytest.raises(db.ConfigurationError, match=r"expected a state of shape \(batch, 4"):
        connector(torch.randn(2, 5, 8, 8))
    images = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    assert db.PaddedConnector(4, 8, streams=2)(images).is_contiguous(memory_format=torch.channels_last)
