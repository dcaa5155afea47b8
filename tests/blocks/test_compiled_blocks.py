"""Blocks whose step is compiled: the numbers of the eager loop, one program for steps alike, a way back."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms, plan_step
from tests.layer_tools import Bend


@pytest.fixture(autouse=True)
def _traced(monkeypatch):
    """The compiler's front and its graphs of gradients, without the minutes that kernels take."""
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "aot_eager")


def pair(controls="constant(3)", integrator="rk4", layer="preact_single(4)", steps=6, **choices):
    """An eager block and its compiled copy."""
    block = db.DynamicBlock(layer, controls, db.uniform(0, 3, steps=steps), integrator, **choices)
    return block, copy.deepcopy(block).replaced(compile=True)


def check_equal(block, compiled, x, passes=2):
    for _ in range(passes):
        one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = block(one), compiled(two)
        torch.testing.assert_close(z, y, rtol=1e-5, atol=1e-5)
        y.square().sum().backward()
        z.square().sum().backward()
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-4)
    for (name, weight), other in zip(block.named_parameters(), compiled.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if weight.grad is not None:
            scale = weight.grad.abs().max().clamp(min=1)
            torch.testing.assert_close(other.grad / scale, weight.grad / scale, rtol=1e-5, atol=1e-5, msg=name)
    for (name, buffer), other in zip(block.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, rtol=1e-5, atol=1e-5, msg=name)
    assert not compiled._programs.failed


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("controls", "integrator"),
    [("constant(3)", "rk4"), ("linear(4)", "midpoint"), ("legendre(3)", "euler"), ("linear(3)", "alf")],
)
def test_outputs_gradients_and_statistics_are_those_of_the_eager_loop(controls, integrator, training):
    block, compiled = pair(controls, integrator)
    check_equal(block.train(training), compiled.train(training), torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize(
    ("layer", "integrator"),
    [("hamiltonian(4)", "verlet"), ("symmetric(4)", "leapfrog"), ("antisymmetric(4)", "two_step_midpoint")],
)
def test_integrators_that_carry_more_than_the_state(layer, integrator):
    block, compiled = pair("constant(2)", integrator, layer, steps=3)
    check_equal(block, compiled, torch.randn(2, 4, 5, 5), passes=1)


@pytest.mark.parametrize(
    ("controls", "steps", "programs"), [("constant(8)", 8, 1), ("constant(2)", 8, 1), ("linear(9)", 24, 2)]
)
def test_steps_of_one_structure_share_a_program(controls, steps, programs, monkeypatch):
    block = db.DynamicBlock("symmetric(4)", controls, db.uniform(0, 8, steps=steps), "midpoint", compile=True)
    compiled = []

    def counting(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(StepPrograms, "backend", staticmethod(counting))
    with torch.no_grad():
        block(torch.randn(2, 4, 5, 5))
    assert len(compiled) == len(block._programs) == programs


def test_a_plan_holds_what_a_step_reads():
    block = db.DynamicBlock(Bend, "linear(3)", db.uniform(0, 2, steps=4), "midpoint")
    plan = plan_step(block.field, block.integrator, 3)
    assert plan.controls == (1, 2)
    assert plan.numbers == (1.5, 0.5, 0.5, 0.5, 0.25, 0.75)
    assert [fraction for (fraction, _), _ in plan.structure.reads] == [0.0, 0.5]


def test_a_projection_and_a_time_are_part_of_the_step():
    block, compiled = pair("linear(3)", "euler", lambda: db.layers.ResidualUnit(4, "b"))
    check_equal(block, compiled, torch.randn(2, 4, 6, 6))

    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, t, y):
            return torch.tanh(self.weight * y + t)

    check_equal(*pair("constant(3)", "midpoint", Timed), torch.randn(2, 3))


def test_autocast_and_unequal_steps():
    block = db.DynamicBlock("preact_single(4)", 3, db.graded(0, 3, steps=5, ratio=3), "midpoint").eval()
    compiled = copy.deepcopy(block).replaced(compile=True)
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, z = block(x), compiled(x)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, y, rtol=0.02, atol=0.05)
    assert len(compiled._programs) == 2, "one for steps within a control, one for steps that cross a knot"


def test_trajectory_and_surgery_keep_it():
    block, compiled = pair("linear(4)", "midpoint", "symmetric(4)")
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(compiled.trajectory(x), block.trajectory(x), rtol=1e-5, atol=1e-5)
    for other in (db.refine(compiled), db.with_integrator(compiled, "euler", steps=3), db.project(compiled, 3)):
        assert other.compiles
        assert repr(other).endswith(", Backprop(), compiled\n)")
        assert other._programs is not compiled._programs
    assert not compiled.replaced(compile=False).compiles
    assert "compiled" not in repr(block)


def test_names_of_weights_copies_and_pickles():
    block, compiled = pair(integrator="euler", layer="symmetric(4)", steps=3)
    x = torch.randn(2, 4, 5, 5)
    expected = compiled(x)
    assert list(compiled.state_dict()) == list(block.state_dict())
    file = io.BytesIO()
    torch.save(compiled, file)
    file.seek(0)
    copies = [copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled)), torch.load(file, weights_only=False)]
    for other in copies:
        assert other.compiles
        assert len(other._programs) == 0
        torch.testing.assert_close(other(x), expected)


def test_what_cannot_be_traced_runs_as_usual_with_one_warning():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, y):
            return y * 0.5 if (self.weight.sum() + y.sum()).item() > 0 else self.weight * y

    block, compiled = pair(layer=Untraceable)
    x = torch.rand(2, 3)
    with pytest.warns(
        UserWarning, match=r"DynamicBlock constant\(3\) x Untraceable .* was not compiled and runs"
    ) as seen:
        found = compiled(x)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = compiled(x)
    for each in (found, again):
        torch.testing.assert_close(each, block(x))


def test_a_layer_that_changes_the_shape_is_the_error_it_always_is():
    compiled = db.DynamicBlock(lambda: nn.Linear(3, 1), 2, compile=True)
    with pytest.raises(db.ConfigurationError, match="must keep the shape"):
        compiled(torch.randn(2, 3))


def test_a_state_that_layers_cannot_take_is_no_reason_to_give_up_compiling():
    block, compiled = pair(integrator="euler", layer=lambda: nn.Linear(3, 3), steps=2)
    with pytest.raises(db.ConfigurationError, match=r"Linear has weights of torch.float32 .* torch.float64"):
        compiled(torch.randn(2, 3, dtype=torch.float64))
    y = torch.randn(2, 3)
    torch.testing.assert_close(compiled(y), block(y))
    assert not compiled._programs.failed


def test_a_compiler_around_the_network_takes_the_whole_loop():
    block, compiled = pair(integrator="euler", layer="symmetric(4)", steps=3)
    x = torch.randn(2, 4, 5, 5)
    found = torch.compile(compiled, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(found, block(x), rtol=1e-5, atol=1e-5)
    assert len(compiled._programs) == 0


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"integrator": "dopri5"}, "those of dopri5 depend on the state"),
        ({"integrator": "implicit_midpoint"}, "those of implicit_midpoint depend on the state"),
        ({"gradient": "checkpoint"}, "do not go together"),
    ],
)
def test_combinations_that_do_not_compile_are_errors(choices, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.DynamicBlock("symmetric(4)", 2, compile=True, **choices)
    compiled = db.DynamicBlock("symmetric(4)", 2, compile=True)
    with pytest.raises(db.ConfigurationError, match=message):
        compiled.replaced(**choices)


@pytest.mark.slow
@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)"])
def test_kernels_too(controls, monkeypatch):
    monkeypatch.setattr(StepPrograms, "backend", "inductor")
    check_equal(*pair(controls, "midpoint"), torch.randn(2, 4, 6, 6))
