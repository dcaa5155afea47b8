"""Configurations work or are refused where they are built; what a state has to do with it is said in a sentence."""

import re
from collections import Counter

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import Branch
from dynamicblocks.structure import structure, with_structure
from tests.blocks.random_configurations import configurations, is_wrong, outcome


def outcomes(count, seed):
    found = [(outcome(choice), choice) for choice in configurations(count, seed)]
    wrong = [pair for pair in found if is_wrong(pair[0])]
    assert not wrong, "\n".join(f"{what}\n  {choice}" for what, choice in wrong)
    return Counter(what.partition(":")[0] for what, _ in found)


def test_random_configurations_work_or_are_refused_where_they_are_built():
    tally = outcomes(60, seed=1)
    assert tally["works"] > 20
    assert tally["refused"] > 10
    assert tally["numbers"] <= 3


@pytest.mark.slow
def test_many_random_configurations():
    tally = outcomes(500, seed=0)
    assert tally["works"] > 150
    assert tally["numbers"] <= 10


def layer(**options):
    return lambda: db.layers.layers.create("preact_single", 4, **options)


IMAGES = torch.randn(2, 4, 5, 5)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("integrator", ["rk4", "dopri5"])
@pytest.mark.parametrize(
    ("options", "y", "words"),
    [
        ({"boundary": "reflect"}, IMAGES[..., :1, :], ("boundary='reflect'", "2 x 2 pixels", "(2, 4, 1, 5)", "larger")),
        (
            {"boundary": "circular", "kernel_size": 5},
            IMAGES[..., :1],
            ("boundary='circular'", "2 x 2", "(2, 4, 5, 1)", "'zeros'"),
        ),
        ({"norm": "batch"}, IMAGES[:1, :, :1, :1], ("BatchNorm2d", "one for each", "larger batches", "eval()")),
        ({"norm": "group(groups=4)"}, IMAGES[:1, :, :1, :1], ("GroupNorm", "one for each", "'tv'")),
        ({}, IMAGES[:, :3], ("(batch, 4, height, width)", "(2, 3, 5, 5)")),
        ({}, IMAGES[0], ("(batch, 4, height, width)", "(4, 5, 5)")),
        ({}, IMAGES[None], ("(batch, 4, height, width)", "(1, 2, 4, 5, 5)")),
        ({}, IMAGES.double(), ("torch.float32", "torch.float64", "y.to(torch.float32)")),
        ({"norm": "none"}, IMAGES.half(), ("Conv2d", "torch.float32", "torch.float16")),
        ({"norm": "tv"}, IMAGES.bfloat16(), ("torch.float32", "torch.bfloat16")),
        ({"norm": "none"}, IMAGES.to("meta"), ("cpu", "meta", "move")),
        ({}, IMAGES.to(torch.uint8), ("torch.uint8", "float()")),
        ({}, IMAGES.to(torch.complex64), ("torch.complex64",)),
        ({}, None, ("NoneType",)),
    ],
)
def test_states_that_a_block_cannot_take(options, y, words, integrator, gradient):
    block = db.DynamicBlock(layer(**options), "linear(2)", integrator=integrator, gradient=gradient)
    with pytest.raises(db.ConfigurationError, match=".*".join(map(re.escape, words))) as caught:
        block(y)
    assert "\n" not in str(caught.value)
    with pytest.raises(db.ConfigurationError):
        block.trajectory(y)


@pytest.mark.parametrize(
    "make",
    [
        lambda: db.Opening(4, 8),
        lambda: db.PooledConnector(4, 8),
        lambda: db.ResidualConnector(4, 8),
        lambda: db.ResidualConnector(4, 8, shortcut="padding"),
        lambda: db.Head(4, 3, order="norm act"),
        lambda: db.DynamicNet(
            db.Opening(4, 8), [db.DynamicBlock("symmetric(8)", 2), db.PooledConnector(8, 8)], db.Head(8, 3)
        ),
    ],
)
def test_images_that_parts_of_networks_cannot_take(make):
    part = make()
    assert len(part(IMAGES)) == 2
    assert len(part(IMAGES[:0])) == 0
    for wrong, words in (
        (IMAGES[:, :3], r"\(batch, 4, height, width\), got \(2, 3, 5, 5\)"),
        (IMAGES[0], r"got \(4, 5, 5\)"),
        (IMAGES.double(), r"weights of torch\.float32 and was given a tensor of torch\.float64; convert: .*, or"),
        (
            IMAGES.to(torch.int64),
            r"torch\.float32 and was given a tensor of torch\.int64; convert: y\.to\(torch\.float32\)$",
        ),
        (IMAGES.to("meta"), "weights on cpu and was given a tensor on meta"),
    ):
        with pytest.raises(db.ConfigurationError, match=words) as caught:
            part(wrong)
        assert (caught.value.__cause__ is not None) == ("torch" in words), "what PyTorch said is kept"
    with pytest.raises(db.ConfigurationError, match="weights on meta and was given a tensor on cpu"):
        part.to("meta")(IMAGES)
    assert part(IMAGES.to("meta")).is_meta


def test_images_that_become_too_small_on_their_way():
    net = db.create_model("dynamicnet", widths=(4, 4, 4), boundary="reflect", norm="tv")
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(db.ConfigurationError, match=r"'reflect' of Conv2d needs images of at least 2 x 2"):
        net(torch.randn(1, 3, 7, 7))
    with pytest.raises(db.ConfigurationError, match=r"2 x 2 pixels leaves nothing of a state of shape \(1, 4, 1, 4\)"):
        db.create_model("dynamicnet", widths=(4, 4, 4), norm="tv")(torch.randn(1, 3, 2, 8))
    with pytest.raises(db.ConfigurationError, match="takes mean and variance of several values"):
        db.create_model("resnet20")(torch.randn(1, 3, 4, 4))
    assert db.create_model("resnet20").eval()(torch.randn(1, 3, 4, 4)).shape == (1, 10)


@pytest.mark.parametrize(
    "integrator", ["euler", "rk4", "dopri5", "kencarp4", "gl4", "trapezoid", "implicit_adams", "alf"]
)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_an_empty_batch_is_a_batch(integrator, gradient):
    made = "preact_single(4, norm='group')" if integrator != "dopri5" else "preact_single(4)"
    block = db.DynamicBlock(made, "linear(3)", integrator=integrator, gradient=gradient)
    found = block(IMAGES[:0])
    assert found.shape == (0, 4, 5, 5)
    found.sum().backward()
    for index in set(range(3)) - block.unused_controls():
        assert not block.controls.layers[index].conv1.weight.grad.any()
    assert all(torch.isfinite(each).all() for each in block.buffers())
    assert block.trajectory(IMAGES[:0]).shape == (len(block.times), 0, 4, 5, 5)


@pytest.mark.parametrize("integrator", ["gl4", "kvaerno3", "implicit_adams"])
def test_equations_are_solved_to_more_digits_than_half_precision_has(integrator):
    block = db.DynamicBlock("symmetric(4)", 2, integrator=integrator)
    expected = block(IMAGES)
    if integrator == "gl4":
        with torch.autocast("cpu", torch.bfloat16):
            assert block(IMAGES).dtype == torch.float32
    found = block.bfloat16()(IMAGES.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


def test_a_trained_network_is_evaluated_with_an_integrator_that_could_not_train_it():
    net = db.create_model("dynamicnet", widths=(4, 4), units=1)
    images = torch.randn(2, 3, 8, 8)
    net(images)
    other = db.with_integrator(net.eval(), "gl4")
    expected = other(images)
    described = structure(other)
    read = with_structure(db.create_model("dynamicnet", widths=(4, 4), units=1), described)
    read.load_state_dict(other.state_dict())
    torch.testing.assert_close(read.eval()(images), expected)
    with pytest.raises(db.ConfigurationError, match="moves its running statistics"):
        read.train()(images)


def test_what_is_not_a_number_goes_through():
    block = db.DynamicBlock("symmetric(4)", 2, integrator="rk4")
    assert block(torch.full_like(IMAGES, torch.nan)).isnan().all()


def test_errors_of_a_layer_of_ones_own_are_left_as_they_are():
    class Own(nn.Module):
        def forward(self, y):
            raise RuntimeError("no such thing")

    class Mixed(nn.Module):
        """A layer whose weights have another precision than the state, on purpose."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3, dtype=torch.float64)

        def forward(self, y):
            return self.linear(y.double()).to(y.dtype)

    with pytest.raises(RuntimeError, match="no such thing"):
        db.DynamicBlock(Own, 2)(IMAGES)
    assert db.DynamicBlock(Mixed, 2)(torch.randn(2, 3)).dtype == torch.float32
    with pytest.raises(db.ConfigurationError, match=r"Linear has weights of torch.float32 .* torch.float64"):
        db.DynamicBlock(lambda: nn.Linear(3, 3), 2)(torch.randn(2, 3).double())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: db.create_model("dynamicnet", widths=(16, -3)), "each of widths must be a whole number .* got -3"),
        (lambda: db.create_model("dynamicnet", widths=(8.5, 16)), "each of widths must be a whole number .* got 8.5"),
        (lambda: db.create_model("dynamicnet", widths=16), "widths must be a list of whole numbers"),
        (lambda: db.create_model("dynamicnet", num_classes=0), "num_classes must be .* got 0"),
        (lambda: db.create_model("dynamicnet", in_channels=None), "in_channels must be .* got None"),
        (lambda: db.create_model("dynamicnet", norm=3), "norm must be a name"),
        (lambda: db.create_model("dynamicnet", activation=nn.ReLU()), "makes a module"),
        (lambda: db.create_model("dynamicnet", layer=3), "layer must be a name"),
        (lambda: db.create_model("dynamicnet", pool=None), "unknown pooling None"),
        (lambda: db.create_model("dynamicnet", integrator="gl4"), "moves its running statistics"),
        (lambda: db.create_model("resnet20", integrator="kencarp4"), "moves its running statistics"),
        (lambda: db.create_model("resnet20", gradient="reversible"), "takes steps back, and "),
        (lambda: db.create_model("resnet", depth="20"), "depth must be a whole number .* got '20'"),
        (lambda: db.create_model("resnet", widths=()), "widths must be a list"),
        (lambda: db.create_model("continuousnet", widen=1.5), "widen must be .* got 1.5"),
        (lambda: db.create_model("continuousnet", time_epsilon=0), "time_epsilon must be positive"),
        (lambda: db.create_model("continuousnet", time_epsilon="1"), "time_epsilon must be zero or more"),
        (lambda: db.create_model("wide_resnet", widen=-1), "widen must be .* got -1"),
        (lambda: db.create_model("twist_resnet18", units=(2, 0, 1, 1)), "each of units must be .* got 0"),
        (lambda: db.DynamicBlock("preact_double(-4)", 2), "width must be .* got -4"),
        (lambda: db.DynamicBlock("preact_double(None)", 2), "width of .* expects a whole number, got None"),
        (lambda: db.DynamicBlock("symmetric(4, hidden=0)", 2), "hidden must be .* got 0"),
        (lambda: db.DynamicBlock("symmetric(4, kernel_size='3')", 2), "kernel_size of .* a whole number, got '3'"),
        (lambda: db.DynamicBlock("residual_unit(2.5)", 2), "width of .* expects a whole number, got 2.5"),
        (lambda: db.DynamicBlock("symmetric(4, norm='group(groups=0)')", 2), "0 groups do not divide 4 channels"),
        (lambda: Branch("conv", 4, 4, stride=0), "stride must be .* got 0"),
        (lambda: db.ResidualConnector(4, 8, step="1"), "step must be zero or more"),
        (lambda: db.Head(4, 2.5), "num_classes must be .* got 2.5"),
    ],
)
def test_sizes_that_cannot_be_are_refused_where_they_are_written(make, message):
    with pytest.raises(db.ConfigurationError, match=message):
        make()
