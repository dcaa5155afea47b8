"""Parts of layers: what is refused, what they are handed, statistics, hooks, and which controls they read."""

import copy
from collections import Counter
from typing import ClassVar

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import Integrator
from tests.extensions.cases import INTEGRATORS, assert_same, block, gradients_of
from tests.extensions.gated import Gated
from tests.extensions.semi_implicit import Damped, SemiImplicit
from tests.extensions.verlet import Halves, Verlet


@pytest.mark.parametrize(
    ("layer", "integrator", "missing"),
    [
        (lambda: Gated(4), Verlet(), "own_verlet reads 'second_half' and 'first_half', and Gated has only 'field'"),
        (lambda: Damped(4), Verlet(), "own_verlet reads .*, and Damped has only 'field', 'solve'"),
        (lambda: Gated(4), SemiImplicit(), "semi_implicit reads 'solve', and Gated has only 'field'; declare it"),
        (lambda: Halves(4), "euler", "euler reads 'field', and Halves has only 'first_half', 'second_half'"),
        (lambda: Halves(4), "dopri5", "dopri5 reads 'field', and Halves has only"),
    ],
)
def test_a_layer_without_the_parts_is_refused_where_it_is_built(layer, integrator, missing):
    with pytest.raises(db.ConfigurationError, match=missing):
        db.DynamicBlock(layer, 3, integrator=integrator)


def test_another_integrator_is_refused_alike():
    halves = db.DynamicBlock(lambda: Halves(4), 3, integrator=Verlet())
    with pytest.raises(db.ConfigurationError, match="rk4 reads 'field', and Halves has only"):
        db.with_integrator(halves, "rk4")
    with pytest.raises(db.ConfigurationError, match="semi_implicit reads 'field' and 'solve', and Halves has only"):
        halves.replaced(integrator=SemiImplicit())


@pytest.mark.parametrize("declared", [{"field": "forward", "solve": "absent"}, {"field": "forward", "solve": 3}])
def test_a_declaration_of_what_is_not_there(declared):
    class Wrong(nn.Linear):
        parts = declared

    with pytest.raises(db.ConfigurationError, match=r"Wrong\.parts must name a method or submodule for each part"):
        db.DynamicBlock(lambda: Wrong(2, 2), 2)


# What parts are handed


class Scaled(Integrator):
    """y1 = y0 + h scale(field(y0), s, h), with a tensor s and a number, the size of the step."""

    name = "scaled"
    order = 1
    reads = ((0.0, "field"), (0.5, "scale"))

    def __init__(self, factor):
        self.factor = factor

    def advance(self, stage, h, carry):
        return carry + h * stage.part("scale", 0.5, stage(0.0, carry), self.factor * carry.mean(), h)


class Scaling(nn.Module):
    """With a part that is a method, and takes the time."""

    parts: ClassVar = {"field": "forward", "scale": "scale"}

    def __init__(self):
        super().__init__()
        self.mix, self.inner = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, y):
        return torch.tanh(self.mix(y))

    def scale(self, t, y, factor, h):
        return self.inner(y) * (factor + t) / (1 + h)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def forward(self, y, factor, h):
        return self.weight * y * factor / (1 + h)


class ScalingSubmodule(nn.Module):
    """With a part that is a submodule."""

    parts: ClassVar = {"field": "forward", "scale": "inner"}

    def __init__(self):
        super().__init__()
        self.mix, self.inner = nn.Linear(3, 3), Inner()

    def forward(self, t, y):
        return torch.tanh(self.mix(y) + t)


each_kind = pytest.mark.parametrize("kind", [Scaling, ScalingSubmodule])
each_control = pytest.mark.parametrize("controls", ["constant(2)", "linear(3)", "legendre(2)"])
GRID = (0.0, 0.5, 1.25, 2.0)


@each_kind
@each_control
def test_numbers_and_tensors_reach_a_part_and_have_gradients(kind, controls, float64):
    factor = torch.tensor(0.7, requires_grad=True)
    made = db.DynamicBlock(kind, controls, GRID, Scaled(factor))
    y = torch.randn(2, 3, requires_grad=True)
    weights = list(made.parameters())

    def function(y, factor, *_):
        return made(y)

    for gradient in ("backprop", "checkpoint(states=1)", "checkpoint"):
        made.gradient = db.with_gradient(made, gradient).gradient
        assert torch.autograd.gradcheck(function, (y, factor, *weights), fast_mode=True)
        (found,) = torch.autograd.grad(made(y).square().sum(), [factor])
        assert found != 0


@each_kind
def test_a_part_has_the_weights_and_the_time_of_its_fraction(kind, float64):
    """One step by hand: the weights are those at its begin for the field, and in the middle for the part."""
    made = db.DynamicBlock(kind, "linear(2)", (1.0, 3.0), Scaled(0.7))
    first, last = made.controls.layers
    middle, y = copy.deepcopy(first), torch.randn(2, 3)
    with torch.no_grad():
        for weight, end in zip(middle.parameters(), last.parameters(), strict=True):
            weight.copy_((weight + end) / 2)
        slope = first(y) if kind is Scaling else first(1.0, y)
        arguments = (slope, 0.7 * y.mean(), 2.0)
        part = middle.scale(2.0, *arguments) if kind is Scaling else middle.inner(*arguments)
        torch.testing.assert_close(made(y), y + 2.0 * part, rtol=1e-13, atol=1e-13)


# Statistics


class Normed(nn.Module):
    """A part that is a method and one that is a submodule, each with statistics."""

    parts: ClassVar = {"field": "forward", "scale": "scale", "first_half": "shift"}

    def __init__(self):
        super().__init__()
        self.norm, self.shift = nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3))

    def forward(self, y):
        return torch.zeros_like(y)

    def scale(self, y):
        return self.norm(y)


class Reader(Integrator):
    """Evaluates one part of the state, at one fraction."""

    name = "reader"
    order = 1

    def __init__(self, fraction, part):
        self.fraction, self.part = fraction, part

    @property
    def reads(self):
        return ((self.fraction, self.part),)

    def advance(self, stage, h, carry):
        return stage.part(self.part, self.fraction, carry)


@pytest.mark.parametrize("part", ["scale", "first_half"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_statistics_move_by_share(part, gradient, fraction, float64):
    """Two controls of unequal statistics; the mean of each moves by its share of the change of their blend."""
    made = db.DynamicBlock(Normed, "linear(2)", (0.0, 1.0), Reader(fraction, part), gradient)
    norms = [layer.norm if part == "scale" else layer.shift[0] for layer in made.controls.layers]
    means = [torch.randn(3), torch.randn(3)]
    for norm, mean in zip(norms, means, strict=True):
        norm.running_mean.copy_(mean)
    y = 3 + torch.randn(8, 3)
    made(y.requires_grad_()).sum().backward()
    shares = (1 - fraction, fraction)
    blended = shares[0] * means[0] + shares[1] * means[1]
    change = 0.1 * (y.detach().mean(0) - blended)
    for norm, mean, share in zip(norms, means, shares, strict=True):
        torch.testing.assert_close(norm.running_mean, mean + share * change, rtol=1e-12, atol=1e-12)
    others = [layer.shift[0] if part == "scale" else layer.norm for layer in made.controls.layers]
    assert not any(other.running_mean.any() for other in others), "the part that was not read is as it was"
    before = [norm.running_mean.clone() for norm in norms]
    made.eval()(y)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


# Hooks


def counted(block, *submodules):
    """How often hooks of submodules run, forwards and backwards, in one pass of a block."""
    seen = Counter()
    for layer in block.controls.layers:
        for name in submodules:
            module = getattr(layer, name)
            module.register_forward_hook(lambda *_, name=name: seen.update([name]))
            module.register_full_backward_hook(lambda *_, name=name: seen.update([f"{name} back"]))
    block(torch.ones(1, 4, requires_grad=True)).sum().backward()
    return dict(seen)


@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)"])
def test_hooks_of_submodules_run_with_the_parts(controls):
    """Of parts that are submodules, and of a submodule that a method uses."""
    verlet = block("own_verlet", controls, (0, 1, 2, 3))
    assert counted(verlet, "f1", "f2") == {"f1": 3, "f1 back": 3, "f2": 6, "f2 back": 6}
    assert counted(block("semi_implicit", controls, (0, 1, 2, 3)), "mix") == {"mix": 3, "mix back": 3}


@pytest.mark.parametrize("controls", ["constant(2)", "linear(3)"])
@pytest.mark.parametrize("grid", [(0, 1, 2), (0, 0.7, 2)], ids=["at knots", "between knots"])
def test_hooks_of_a_submodule_that_a_part_uses(controls, grid):
    class Hooked(Damped):
        def __init__(self):
            super().__init__(4)
            self.scale = nn.Identity()

        def solve(self, y, h):
            return super().solve(self.scale(y), h)

    assert counted(db.DynamicBlock(Hooked, controls, grid, SemiImplicit()), "scale") == {"scale": 2, "scale back": 2}


# Controls that are read


def test_controls_that_only_a_part_reads_are_read():
    """The last knot of linear weights: Euler never reads it, the solution of an equation at the end of a step does."""
    made = block("semi_implicit", "linear(4)", (0, 1, 2, 3))
    assert made.unused_controls() == set()
    assert db.freeze_unused_controls(made) == []
    euler = db.with_integrator(made, "euler")
    assert db.freeze_unused_controls(euler) == ["controls.layers.3"]
    assert block("own_leapfrog", "linear(4)", (0, 1, 2, 3)).unused_controls() == {3}
    assert block("own_verlet", "linear(4)", (0, 1, 2, 3)).unused_controls() == set()
    found = gradients_of(made, torch.randn(2, 4))
    assert found["controls.layers.3.rate"].any()
    assert found["controls.layers.3.mix.weight"] is None


@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)", "discontinuous_linear(6)"])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_what_is_not_frozen_gets_a_gradient(name, controls):
    """A process of DistributedDataParallel waits for the gradients of all others."""
    made, y = block(name, controls, (0, 1, 2, 3)), torch.randn(2, 4)
    db.freeze_unused_controls(made, y)
    frozen = {each for each, weight in made.named_parameters() if not weight.requires_grad}
    missing = {each for each, gradient in gradients_of(made, y).items() if gradient is None}
    assert missing <= frozen


def test_weights_of_a_part_that_no_step_reads_are_frozen():
    made = db.DynamicBlock(lambda: Damped(4), 2)
    rates = ["controls.layers.0.rate", "controls.layers.1.rate"]
    assert db.freeze_unused_controls(made, torch.randn(2, 4)) == rates
    assert [name for name, weight in made.named_parameters() if not weight.requires_grad] == rates
    # Where a step reads that part, they go on.
    assert db.freeze_unused_controls(made.replaced(integrator=SemiImplicit()), torch.randn(2, 4)) == []
    assert all(weight.requires_grad for weight in made.parameters())


def test_statistics_are_measured_through_parts(float64):
    made = db.DynamicBlock(Normed, "constant(1)", (0.0, 1.0), Reader(0.5, "scale"))
    y = 3 + torch.randn(16, 3)
    measured = db.recalibrate(made, [y])
    torch.testing.assert_close(measured.controls.layers[0].norm.running_mean, y.mean(0), rtol=1e-12, atol=1e-12)


def test_checkpoints_replay_statistics_of_parts(float64):
    """Recomputation leaves statistics, and with them the gradients, as they are."""
    made = db.DynamicBlock(Normed, "linear(3)", (0.0, 0.7, 1.5, 2.0), Reader(0.25, "scale"))
    y = torch.randn(6, 3)
    state = {name: buffer.clone() for name, buffer in made.state_dict().items()}
    expected = gradients_of(made, y)
    after = {name: buffer.clone() for name, buffer in made.state_dict().items()}
    made.load_state_dict(state)
    assert_same(gradients_of(made.replaced(gradient="checkpoint"), y), expected, 1e-12)
    for name, buffer in made.state_dict().items():
        torch.testing.assert_close(buffer, after[name], rtol=1e-14, atol=1e-14, msg=name)
