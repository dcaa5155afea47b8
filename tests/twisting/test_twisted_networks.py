"""Twists in dynamic blocks and in the networks of the package, and their form as plain data."""

import copy
import json
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms
from dynamicblocks.layers import ResidualUnit
from dynamicblocks.structure import structure, with_structure
from dynamicblocks.twisting import stages_of, twist_choices, with_twists
from tests.layer_tools import randomised
from tests.twist_tools import (
    BasicBlock,
    HandWritten,
    assert_unchanged,
    kernels,
    kernels_of,
    snapshot,
    with_random_twists,
)

# Dynamic blocks.

CONTROLS = ["constant(3)", "linear(4)", "legendre(3)"]


def smooth_layer():
    return db.layers.PreactDouble(3, norm="none", activation="tanh")


def smooth_block(controls="linear(3)", integrator="midpoint", twisted=True, **choices):
    block = db.DynamicBlock(smooth_layer, controls, db.uniform(0, 3, steps=3), integrator, **choices).double()
    if not twisted:
        return block
    return with_random_twists(db.twist(block))


def state(side=5, channels=3, dtype=torch.float64):
    return torch.randn(2, channels, side, side + 1, dtype=dtype)


@pytest.mark.parametrize("controls", CONTROLS)
@pytest.mark.parametrize("integrator", ["euler", "rk4_classic"])
@pytest.mark.parametrize("training", [True, False])
def test_a_block_starts_as_the_plain_block(controls, integrator, training):
    block = db.DynamicBlock("preact_double(4)", controls, 3, integrator).double().train(training)
    twisted = db.twist(block)
    y = state(channels=4)
    torch.testing.assert_close(twisted(y), block(y), rtol=1e-12, atol=1e-12)
    assert len(kernels_of(twisted)) == 2 * len(block.controls)
    # Running statistics move as before.
    for (name, buffer), other in zip(block.named_buffers(), twisted.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "integrator",
    ["euler", "midpoint", "rk4_classic", "reversible_heun", "implicit_midpoint", "dopri5(rtol=1e-5, atol=1e-5)"],
)
@pytest.mark.parametrize("controls", CONTROLS)
def test_both_gradient_modes_agree_on_a_twisted_block(integrator, controls):
    block = smooth_block(controls, integrator)
    y = state()
    found = []
    for gradient in ("backprop", "checkpoint"):
        other = db.with_gradient(block, gradient)
        start = y.clone().requires_grad_()
        other(start).square().sum().backward()
        found.append({"": start.grad, **{name: weight.grad for name, weight in other.named_parameters()}})
    one, two = found
    seen = 0
    for name, grad in one.items():
        assert (grad is None) == (two[name] is None), name
        if grad is not None:
            assert bool(grad.isfinite().all()), name
            torch.testing.assert_close(two[name], grad, rtol=1e-10, atol=1e-10, msg=name)
            seen += name.endswith("twist") and bool(grad.abs().max() > 1e-3)
    unread = {f"controls.layers.{index}." for index in block.unused_controls()}
    assert seen == 2 * (len(block.controls) - len(unread))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_gradients_of_a_twisted_block_are_those_of_finite_differences(gradient):
    block = smooth_block("linear(2)", "midpoint", gradient=gradient)
    names = [name for name, _ in block.named_parameters() if name.endswith("conv2.twist")]

    def call(y, *weights):
        return torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (y,))

    chosen = [block.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(call, (state(side=3)[:1].requires_grad_(), *chosen), fast_mode=True)


@pytest.mark.parametrize("controls", ["constant(2)", "linear(3)"])
def test_a_compiled_twisted_block_equals_the_eager_one(controls, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "aot_eager")
    plain = db.DynamicBlock("preact_single(4)", controls, 3, "midpoint", compile=True)
    compiled = with_random_twists(db.twist(plain))
    eager = copy.deepcopy(compiled).replaced(compile=False)
    assert compiled.compiles
    assert not eager.compiles
    y = state(channels=4, dtype=torch.float32)
    one, two = compiled(y), eager(y)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    one.square().sum().backward()
    two.square().sum().backward()
    for (name, weight), other in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-4, atol=1e-4, msg=name)
    assert not compiled._programs.failed


@pytest.mark.parametrize("controls", CONTROLS)
def test_refined_controls_carry_their_twists(controls):
    block = smooth_block(controls)
    finer = db.refine(block, steps=False)
    y = state()
    torch.testing.assert_close(finer(y), block(y), rtol=1e-10, atol=1e-10)
    assert len(kernels_of(finer)) == 2 * len(finer.controls) > len(kernels_of(block))
    assert db.twists(finer).weights > db.twists(block).weights
    deeper = db.refine(block)
    assert deeper.steps == 2 * block.steps
    assert all(each.strength > 0 for each in db.twists(deeper).twisted)


def test_projected_twists_are_exact_where_the_new_basis_holds_the_old():
    block = smooth_block("linear(2)")
    wider = db.project(block, "linear(4)")
    y = state()
    torch.testing.assert_close(wider(y), block(y), rtol=1e-10, atol=1e-10)
    first, last = (block.controls.layers[index].conv1.twist for index in (0, 1))
    for index in range(4):
        expected = first + (last - first) * index / 3
        torch.testing.assert_close(wider.controls.layers[index].conv1.twist, expected)
    # A constant is the mean of a line.
    constant = db.project(block, "constant(1)")
    torch.testing.assert_close(constant.controls.layers[0].conv1.twist, (first + last) / 2)


def test_twisted_blocks_converge_under_finer_steps_of_another_integrator():
    block = smooth_block("legendre(3)", "euler")
    y = state()
    with torch.no_grad():
        outputs = [db.with_integrator(block, "rk4_classic", steps=steps)(y) for steps in (6, 12, 24, 48)]
    errors = [(output - outputs[-1]).norm().item() for output in outputs[:-1]]
    assert all(coarse / fine > 12 for coarse, fine in pairwise(errors))
    again = db.with_integrator(block, "midpoint")
    assert all(torch.equal(weight, other) for weight, other in zip(again.parameters(), block.parameters(), strict=True))
    assert kernels_of(again) == kernels_of(block)


def test_all_controls_of_a_block_are_twisted_alike():
    net = db.create_model("continuousnet", width=4, units=2, controls="linear")
    before = snapshot(net)
    with pytest.raises(db.ConfigurationError, match="all controls of a block are layers of one form"):
        db.twist(net, where="body.1.controls.layers.0.*", inplace=True)
    assert_unchanged(net, before)
    with pytest.raises(db.ConfigurationError, match=r"controls.layers.0 and controls.layers.1 would differ"):
        db.twist(db.DynamicBlock(lambda: nn.Conv2d(2, 2, 3, padding=1), 2), where="*.1")
    alike = db.twist(net, where="*.controls.layers.*.branch.conv1")
    assert {name.rpartition(".")[2] for name in kernels_of(alike)} == {"conv1"}
    with pytest.raises(db.ConfigurationError, match="all controls of a block"):
        db.untwist(alike, where="body.1.controls.layers.0.*")
    assert db.refine(alike)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def twisted_by_hand(y, weight, bias, twist):
    """W * y + b + X (Wx * y) + Y (Wy * y): X to the right, Y downwards, Wy = Wx turned."""
    height, width = y.shape[-2:]
    right = torch.tensor([(2 * column + 1 - width) / width for column in range(width)], dtype=y.dtype)
    down = torch.tensor([(2 * row + 1 - height) / height for row in range(height)], dtype=y.dtype)
    field = (twist - torch.flip(twist, (2, 3))) / 2
    turned = torch.zeros_like(field)
    for row in range(3):
        for column in range(3):
            turned[:, :, column, 2 - row] = field[:, :, row, column]
    plain = F.conv2d(y, weight, bias, padding=1)
    return plain + right * F.conv2d(y, field, padding=1) + down[:, None] * F.conv2d(y, turned, padding=1)


def convolution_block(controls, integrator, times):
    block = db.DynamicBlock(lambda: nn.Conv2d(2, 2, 3, padding=1), controls, times, integrator).double()
    block = with_random_twists(db.twist(block))
    thetas = [(layer.weight, layer.bias, layer.twist) for layer in block.controls.layers]
    return block, thetas


def test_euler_steps_of_a_twisted_block_are_those_written_by_hand():
    block, thetas = convolution_block("constant(2)", "euler", db.uniform(0, 1, steps=2))
    y = expected = state(channels=2)
    for theta in thetas:
        expected = expected + 0.5 * twisted_by_hand(expected, *theta)
    torch.testing.assert_close(block(y), expected, rtol=1e-12, atol=1e-12)


def test_coefficients_vary_in_space_and_time():
    block, (first, last) = convolution_block("linear(2)", "midpoint", db.uniform(0, 0.5, steps=1))
    y = state(channels=2)
    middle = y + 0.25 * twisted_by_hand(y, *first)
    halfway = [(one + other) / 2 for one, other in zip(first, last, strict=True)]
    torch.testing.assert_close(block(y), y + 0.5 * twisted_by_hand(middle, *halfway), rtol=1e-12, atol=1e-12)


# ResNet with a twist.


@pytest.mark.parametrize(
    ("name", "unit", "weights"),
    [
        ("twist_resnet18", "a", 11_173_962),
        ("twist_resnet34", "a", 21_282_122),
        ("twist_resnet50", "bottleneck_a", 23_520_842),
    ],
)
def test_without_a_twist_they_have_the_weights_of_the_usual_networks(name, unit, weights):
    with torch.device("meta"):
        assert db.create_model(name, unit=unit, stages="FFFF").num_weights == weights


def test_a_twist_of_the_last_stage_adds_a_kernel_for_each_of_its_own():
    with torch.device("meta"):
        plain, twisted = (db.create_model("twist_resnet18", stages=stages) for stages in ("FFFF", "FFFT"))
    assert twisted.num_weights - plain.num_weights == (256 + 3 * 512) * 512 * 9


def plain_pairs(net, plain):
    """(dynamic module, module of the plain network) for everything that holds weights."""
    yield net.opening.conv1, plain.conv1
    yield net.opening.norm1, plain.bn1
    yield net.head.linear, plain.fc
    units = []
    for module in net.body:
        units += list(module.controls.layers) if isinstance(module, db.DynamicBlock) else [module]
    blocks = [block for stage in range(1, 5) for block in getattr(plain, f"layer{stage}")]
    for unit, block in zip(units, blocks, strict=True):
        yield unit.branch.conv1, block.conv1
        yield unit.branch.norm1, block.bn1
        yield unit.branch.conv2, block.conv2
        yield unit.branch.norm2, block.bn2
        if len(block.downsample):
            yield unit.shortcut, block.downsample


@pytest.mark.parametrize("units", [(2, 2, 2, 2), (1, 3, 1, 2)])
def test_with_the_same_weights_it_is_a_plain_resnet(units):
    net = db.create_model("twist_resnet18", num_classes=5, units=units, width=4, unit="a", stages="FFFF")
    net = randomised(net).eval()
    plain = HandWritten(units, (4, 8, 16, 32)).double().eval()
    assert net.num_weights == sum(weight.numel() for weight in plain.parameters())
    for ours, theirs in plain_pairs(net, plain):
        theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = plain(images)
    torch.testing.assert_close(net(images) / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-10)
    # Twisted alike, they are still the same network.
    twisted, plain = db.twist(net, where="body.*"), db.twist(plain, where=BasicBlock)
    for ours, theirs in plain_pairs(with_random_twists(twisted), plain):
        theirs.load_state_dict(ours.state_dict())
    moved = plain(images)
    assert (moved - expected).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(twisted(images) / moved.abs().max(), moved / moved.abs().max(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["twist_resnet18", "twist_resnet34", "twist_resnet50"])
def test_letters_choose_the_stages_that_are_twisted(name):
    for stages in ("TTTT", "TTTF", "FTFF"):
        net = db.create_model(name, width=4, stages=stages, degree=2)
        widths = {net.get_submodule(each).out_channels for each in kernels_of(net)}
        assert widths == {4 * 2**index for index, letter in enumerate(stages) if letter == "T"}
        assert {each.twist for each in db.twists(net).twisted} == {"vector, degree 2"}
        assert len(stages_of(net)) == 4
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_stage_of_one_unit_is_twisted_as_well():
    net = db.create_model("twist_resnet18", units=(1, 1, 1, 1), width=4, stages="TFTF")
    assert {net.get_submodule(each).out_channels for each in kernels_of(net)} == {4, 16}


def test_a_bottleneck_convolves_a_quarter_of_the_channels():
    unit = ResidualUnit(16, "bottleneck_e")
    shapes = [tuple(module.weight.shape) for module in unit.modules() if isinstance(module, nn.Conv2d)]
    assert shapes == [(4, 16, 1, 1), (4, 4, 3, 3), (16, 4, 1, 1)]
    net = db.create_model("twist_resnet50", width=8)
    assert net.head.linear.in_features == 8 * 8 * 4
    assert len(kernels_of(net)) == 16
    # The stride lies at the 3x3 convolution.
    assert net.body[2].branch.reduce1.stride == (1, 1)
    assert net.body[2].branch.conv1.stride == (2, 2)
    for width in (6, 2):
        with pytest.raises(db.ConfigurationError, match=f"multiple of 4 channels, got {width}"):
            ResidualUnit(width, "bottleneck_a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "TTT"}, "each of 4 stages, got 'TTT'"),
        ({"stages": "TTTx"}, "each of 4 stages"),
        ({"units": (2, 2)}, "each of 2 stages, got 'TTTT'"),
        ({"units": (2, 0, 2, 2)}, "units must be a whole number of at least 1"),
        ({"unit": "f"}, "unknown residual unit"),
        ({"parametrisation": "odd"}, "unknown parametrisation"),
        ({"degree": 0}, "degree of a twist"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.create_model("twist_resnet18", **{"width": 4, **options})


# The form of a network, as files hold it.


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"stages": "TFT", "parametrisation": "independent"},
        {"where": "*.conv1", "parametrisation": "full", "degree": 2},
    ],
)
@pytest.mark.parametrize("controls", ["constant", "linear"])
def test_the_form_is_plain_data_that_rebuilds_a_grown_network(choice, controls):
    def make():
        return db.create_model("continuousnet", width=4, units=2, controls=controls, num_classes=3)

    grown = with_random_twists(db.twist(db.refine(make()), **choice)).eval()
    described = json.loads(json.dumps(structure(grown)))
    rebuilt = with_structure(make(), described)
    rebuilt.load_state_dict(grown.state_dict(), strict=True)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilt.eval()(images), grown(images))
    assert structure(rebuilt) == described
    # Twisted first, refined then; and from a network that was twisted in another way.
    other_order = db.refine(db.twist(make(), **choice))
    assert structure(other_order) == described
    from_another = with_structure(db.twist(make(), parametrisation="full"), described)
    from_another.load_state_dict(grown.state_dict(), strict=True)
    assert torch.equal(from_another.eval()(images), grown(images))
    # Files of before there were twists describe a plain network.
    plain = with_structure(make(), {"discretisation": described["discretisation"]})
    assert not kernels_of(plain)


def test_twists_that_agree_with_a_description_are_kept():
    net = with_random_twists(db.twist(HandWritten(), stages="TTFF"))
    before = snapshot(net)
    choices = json.loads(json.dumps(twist_choices(net)))
    assert choices == {name: {"parametrisation": "vector", "degree": 1} for name in kernels(1, 2)}
    for name in kernels(2):
        del choices[name]
    choices["layer4.0.conv1"] = {"parametrisation": "full", "degree": 2}
    other = with_twists(net, choices)
    assert_unchanged(net, before)
    assert twist_choices(other) == choices
    assert torch.equal(other.layer1[0].conv2.twist, net.layer1[0].conv2.twist)
    assert not other.layer4[0].conv1.twist.any()
    with pytest.raises(RuntimeError, match="twist"):
        other.load_state_dict(net.state_dict(), strict=True)


@pytest.mark.parametrize("name", ["layer7.0.conv1", "layer1", "bn1", ""])
def test_a_description_of_another_network_is_refused(name):
    net = HandWritten()
    before = snapshot(net)
    with pytest.raises(db.ConfigurationError, match=r"no convolution .* that could be twisted"):
        with_twists(net, {name: {"parametrisation": "vector", "degree": 1}})
    assert_unchanged(net, before)


@pytest.mark.parametrize("layer", ["preact_double", "preact_single", "postact_double", "postact_single"])
def test_a_layer_by_name_can_be_twisted_in_its_string(layer):
    block = db.DynamicBlock(f"{layer}(4, twist='independent')", controls="linear(3)")
    found = db.twists(block)
    assert len(found.twisted) == len(found.convolutions) == 3 * (2 if "double" in layer else 1)
    assert all(each.twist == "independent" for each in found.twisted)
    with pytest.raises(db.ConfigurationError, match="did you mean 'vector'"):
        db.DynamicBlock(f"{layer}(4, twist='vectors')", controls=2)
