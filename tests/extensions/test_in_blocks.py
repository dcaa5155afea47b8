"""Integrators of a user's own in blocks: steps written out, gradients, refinement, files, compiled steps."""

import copy
import io
import json
import pickle
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms
from dynamicblocks.integrators import Integrator
from dynamicblocks.structure import discretisation, structure, with_discretisation, with_structure
from tests.extensions.cases import INTEGRATORS, WIDTH, assert_same, block, gradients_of, layer, moved
from tests.extensions.leapfrog import Leapfrog
from tests.extensions.learned_multistep import LearnedMultistep
from tests.extensions.truncated import Truncated

every = pytest.mark.parametrize("name", INTEGRATORS)
GRIDS = {"uniform": db.uniform(0, 3, steps=6), "graded": db.graded(0, 3, steps=7, ratio=3)}
CONTROLS = ["constant(3)", "linear(4)", "discontinuous_linear(6)"]


@pytest.fixture
def state(float64):
    return torch.randn(3, WIDTH)


def by_hand(integrator, read, points, y):
    """The steps of an integrator a second time; ``read(n, c, name)`` is a part of the layer on a step."""
    sizes = [b - a for a, b in pairwise(points)]
    states, slopes = [y], []
    for n, h in enumerate(sizes):
        y = states[-1]
        if isinstance(integrator, INTEGRATORS["own_verlet"]):
            q, p = y[:, :2], y[:, 2:]
            middle = p + h / 2 * read(n, 0.0, "f2")(q)
            q = q + h * read(n, 0.5, "f1")(middle)
            states.append(torch.cat([q, middle + h / 2 * read(n, 1.0, "f2")(q)], dim=1))
            continue
        f = read(n, 0.0, "forward")
        slopes.append(f(y))
        euler = y + h * slopes[-1]
        if integrator.name == "semi_implicit":
            euler = read(n, 1.0, "solve")(euler, h)
        elif integrator.name == "learned_multistep" and n:
            euler = euler + integrator.k[n] * (states[-2] - y)
        elif integrator.name == "own_adams_bashforth" and n:
            r = h / sizes[n - 1]
            euler = y + h * ((1 + r / 2) * slopes[-1] - r / 2 * slopes[-2])
        elif integrator.name == "own_leapfrog" and n:
            # The parabola with both states and the last slope, at the end of the step.
            back = sizes[n - 1]
            bend = (states[-2] - y + back * slopes[-1]) / back**2
            euler = y + h * slopes[-1] + h**2 * bend
        elif integrator.name == "ssprk43":
            # The form of Shu and Osher: Euler steps of h / 2 and their mean.
            u = y
            for c in (0.0, 0.5, 1.0):
                u = u + h / 2 * read(n, c, "forward")(u)
                u = 2 / 3 * y + u / 3 if c == 1.0 else u
            euler = u + h / 2 * read(n, 0.5, "forward")(u)
        states.append(euler)
    return states


@every
@pytest.mark.parametrize("grid", GRIDS)
def test_steps_are_those_written_out(name, grid, state):
    made = block(name, "linear(2)", GRIDS[grid])
    first, last = made.controls.layers
    points = made.times.points

    def read(n, c, method):
        s = (points[n] + c * (points[n + 1] - points[n])) / 3
        mixed = copy.deepcopy(first)
        with torch.no_grad():
            for weight, end in zip(mixed.parameters(), last.parameters(), strict=True):
                weight.mul_(1 - s).add_(s * end)
        return getattr(mixed, method)

    with torch.no_grad():
        expected = torch.stack(by_hand(made.integrator, read, points, state))
        torch.testing.assert_close(made.trajectory(state), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["own_leapfrog", "own_adams_bashforth"])
def test_memory_does_not_cross_a_jump_of_the_field(name, state):
    """Two pieces of constant weights: the second begins as a block of its own would."""
    made = block(name, "constant(2)", (0, 0.5, 1.25, 1.5, 2, 3))
    halves = (block(name, "constant(1)", (0, 0.5, 1.25, 1.5)), block(name, "constant(1)", (1.5, 2, 3)))
    y = state
    for half, own in zip(halves, made.controls.layers, strict=True):
        half.controls.layers[0].load_state_dict(own.state_dict())
        y = half(y)
    torch.testing.assert_close(made(state), y, rtol=1e-13, atol=1e-13)


@every
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("controls", CONTROLS)
def test_checkpoints_give_the_gradients_of_backpropagation(name, grid, controls, state):
    made = block(name, controls, GRIDS[grid])
    expected = gradients_of(made, state)
    assert sum(found is not None for found in expected.values()) > 4
    for gradient in ("checkpoint", "checkpoint(states=1)", "checkpoint(states=7)"):
        assert_same(gradients_of(db.with_gradient(made, gradient), state), expected, 1e-12)


@every
def test_gradients_are_those_of_finite_differences(name, state):
    made = block(name, times=GRIDS["uniform"], gradient="checkpoint")
    weights = [weight for weight in made.parameters() if weight.requires_grad]

    def function(y, *_):
        return made(y)

    assert torch.autograd.gradcheck(function, (state[:1].clone().requires_grad_(), *weights), fast_mode=True)


@every
def test_refinement_keeps_weights_and_goes_on(name, state):
    made = block(name)
    kept = db.refine(made, steps=False)
    torch.testing.assert_close(kept(state), made(state), rtol=1e-12, atol=1e-12)
    finer = db.refine(made)
    assert finer.steps == 2 * made.steps
    assert type(finer.integrator) is type(made.integrator)
    assert not {id(weight) for weight in finer.parameters()} & {id(weight) for weight in made.parameters()}
    for other in (finer, db.project(made, "constant(4)"), db.with_integrator(made, steps_factor=3)):
        assert other(state).isfinite().all()
    assert_same(gradients_of(db.with_gradient(finer, "checkpoint"), state), gradients_of(finer, state), 1e-12)


@every
@pytest.mark.usefixtures("registered")
def test_a_network_comes_back_from_its_description_and_its_file(name, state):
    def network(integrator, times):
        blocks = [db.DynamicBlock(lambda: layer(name), "linear(3)", times, integrator) for _ in range(2)]
        return nn.Sequential(blocks[0], nn.Linear(WIDTH, WIDTH), blocks[1])

    net = moved(db.refine(network(INTEGRATORS[name](), (0, 0.5, 2))))
    described = json.loads(json.dumps(discretisation(net)))
    assert described["0"]["integrator"] == name
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    plain = network(INTEGRATORS[name](), (0, 1, 2))
    for rebuilt in (
        with_discretisation(plain, described),
        with_structure(plain, json.loads(json.dumps(structure(net)))),
    ):
        assert rebuilt.load_state_dict(torch.load(file), strict=True).missing_keys == []
        assert torch.equal(rebuilt(state), net(state))
        file.seek(0)
    by_name = db.DynamicBlock(lambda: layer(name), "linear(3)", (0, 1, 2), name)
    assert by_name.integrator.shorthand == name
    assert by_name(state).shape == state.shape


@every
def test_copies_and_pickles(name, state):
    made = block(name)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(state), made(state))


@pytest.mark.parametrize("integrator", [Leapfrog(), INTEGRATORS["own_adams_bashforth"]()], ids=lambda each: each.name)
def test_a_projection_follows_each_step(integrator, state):
    class Held(nn.Linear):
        """Slopes of any size, states between 0 and 1."""

        parts: ClassVar = {"field": "forward", "projection": "hold"}

        def hold(self, y):
            return y.clamp(0, 1)

    made = db.DynamicBlock(lambda: Held(WIDTH, WIDTH), 3, (0, 0.5, 1, 2.5, 3), integrator)
    assert ((made.trajectory(10 * state)[1:] >= 0) & (made.trajectory(10 * state)[1:] <= 1)).all()
    assert_same(gradients_of(db.with_gradient(made, "checkpoint"), state), gradients_of(made, state), 1e-12)


class InADict(Integrator):
    """Euler, with a carry that is no tensor and no tuple."""

    name = "in_a_dict"
    order = 1
    reads = ((0.0, "field"),)

    def begin(self, stage, h, y):
        return {"y": y}

    def advance(self, stage, h, carry):
        return {"y": carry["y"] + h * stage(0.0, carry["y"])}

    def finish(self, carry):
        return carry["y"]


def test_the_projection_changes_the_first_entry_of_a_tuple_or_asks_for_amend(state):
    def made(integrator):
        torch.manual_seed(0)
        return db.DynamicBlock(lambda: db.layers.ResidualUnit(2, "a"), 3, integrator=integrator)

    y = torch.randn(1, 2, 4, 4)
    assert torch.equal(made(LearnedMultistep()).trajectory(y)[1], made("euler").trajectory(y)[1])
    with pytest.raises(db.ConfigurationError, match=r"in_a_dict carries a dict, so it needs finish.* and amend"):
        made(InADict())(y)


@pytest.mark.parametrize("controls", [pytest.param("constant(3)", marks=pytest.mark.slow), "linear(4)"])
@every
def test_compiled_steps_give_the_numbers_of_the_eager_loop(name, controls, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "aot_eager")
    made = block(name, controls, db.uniform(0, 3, steps=6))
    compiled = copy.deepcopy(made).replaced(compile=True)
    y = torch.randn(2, WIDTH)
    expected = gradients_of(made, y)
    for _ in range(2):
        assert_same(gradients_of(compiled, y), expected, 1e-5)
    assert not compiled._programs.failed
    assert len(compiled._programs) < made.steps


def test_compiled_steps_under_a_mode_of_ones_own(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "aot_eager")
    made = block("own_leapfrog", "linear(4)", gradient=Truncated(3))
    y = torch.randn(2, WIDTH)
    assert_same(gradients_of(made.replaced(compile=True), y), gradients_of(made, y), 1e-5)
