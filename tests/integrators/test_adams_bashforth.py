"""Adams-Bashforth methods of one order: on equal steps the tables' formulas, on any steps their order."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms
from dynamicblocks.integrators import AdamsBashforth, as_integrator
from dynamicblocks.structure import discretisation, with_discretisation

ORDERS = (2, 3, 4)
TABLE = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
START = {2: "euler", 3: "midpoint", 4: "kutta3"}


def f(t, y):
    return torch.cos(t) - y * torch.sin(3 * t)


def unequal(start, end, steps):
    """Points whose steps are now twice as long as the one before, now a third of it."""
    sizes = np.resize([1.0, 2.0, 0.7, 1.5], steps)
    return torch.tensor(start + (end - start) * np.concatenate([[0.0], sizes.cumsum() / sizes.sum()]))


@pytest.mark.parametrize("order", ORDERS)
def test_on_equal_steps_weights_are_those_of_the_tables(float64, order):
    h, y = 0.1, torch.tensor([1.0, -2.0])
    times = torch.arange(9) * h
    states = db.odeint(f, y, times, method=f"adams_bashforth({order})")
    known = order - 1
    torch.testing.assert_close(states[: known + 1], db.odeint(f, y, times[: known + 1], method=START[order]))
    for n in range(known, 8):
        increment = sum(w * f(times[n - i], states[n - i]) for i, w in enumerate(TABLE[order]))
        torch.testing.assert_close(states[n + 1], states[n] + h * increment)


@pytest.mark.parametrize("end", [2.0, -2.0])
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_on_unequal_steps(float64, order, end):
    y = torch.tensor([1.0, -0.5])
    exact = db.odeint(f, y, torch.tensor([0.0, end]), method="dopri8", rtol=1e-13, atol=1e-13)[-1]
    counts = (128, 256)
    errors = [
        (db.odeint(f, y, unequal(0.0, end, n), method=f"adams_bashforth({order})")[-1] - exact).norm().item()
        for n in counts
    ]
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(order, abs=0.3)


class Timed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, t, y):
        return torch.tanh(self.linear(y)) * (1 + t) / 3


def grid_of(block, steps):
    """Unequal steps, so many between any two knots."""
    knots = block.controls.basis.points
    pieces = [unequal(a, b, steps)[1:].tolist() for a, b in pairwise(knots)]
    return (knots[0], *(t for piece in pieces for t in piece))


@pytest.mark.parametrize("controls", ["constant(3)", "linear(4)", "bspline(6)"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_where_weights_change(float64, order, controls):
    """Where they jump, and where they bend too sharply for the order."""
    block = db.DynamicBlock(Timed, controls, times=3)
    y = torch.randn(4, 3)
    with torch.no_grad():
        exact = db.with_integrator(block, "rk4", times=grid_of(block, 120))(y)
        errors = [
            (db.with_integrator(block, f"adams_bashforth({order})", times=grid_of(block, n))(y) - exact).norm().item()
            for n in (20, 40)
        ]
    assert math.log2(errors[0] / errors[1]) > order - 0.45


def test_it_begins_anew_where_its_order_asks_for_it():
    evaluations = {}
    for controls in ("constant(3)", "linear(4)", "bspline(6)"):
        for order in ORDERS:
            block = db.DynamicBlock(Timed, controls, times=db.uniform(0, 3, steps=30))
            block = db.with_integrator(block, AdamsBashforth(order))
            block(torch.zeros(1, 3))
            evaluations[controls, order] = block.evaluations - 30
    # Of a start, order 3 takes two evaluations more, and order 4 six: at 0, and at the knots 1 and 2.
    assert evaluations == {
        ("constant(3)", 2): 0, ("constant(3)", 3): 6, ("constant(3)", 4): 18,
        ("linear(4)", 2): 0, ("linear(4)", 3): 6, ("linear(4)", 4): 18,
        ("bspline(6)", 2): 0, ("bspline(6)", 3): 2, ("bspline(6)", 4): 6,
    }  # fmt: skip


def test_where_weights_jump_at_every_step_it_is_its_start():
    for order in ORDERS:
        block = db.DynamicBlock(Timed, 4, integrator=AdamsBashforth(order))
        y = torch.randn(2, 3)
        torch.testing.assert_close(block(y), db.with_integrator(block, START[order])(y))


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_times_and_weights(float64, order):
    weight = torch.tensor([0.5, -1.0], requires_grad=True)
    t = unequal(0.0, 1.0, 6).requires_grad_()

    def run(weight, t):
        return db.odeint(lambda t, y: torch.sin(weight * y + t), torch.ones(2), t, method=AdamsBashforth(order))[-1]

    assert torch.autograd.gradcheck(run, (weight, t))


@pytest.mark.parametrize("order", ORDERS)
def test_checkpoints_have_the_gradients_of_backpropagation(order):
    block = db.DynamicBlock("preact_single(4)", 2, db.uniform(0, 2, steps=10), AdamsBashforth(order))
    y = torch.randn(2, 4, 5, 5)
    gradients = [
        torch.autograd.grad(each(y).square().sum(), [*each.parameters()])
        for each in (block, block.replaced(gradient="checkpoint"))
    ]
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)


def test_a_projection_ends_each_step():
    block = db.DynamicBlock("residual_unit(2, 'a', norm='none')", 1, 5, "adams_bashforth")
    assert (block.trajectory(torch.randn(1, 2, 4, 4))[1:] >= 0).all()


def test_of_order_two_it_is_compiled(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "eager")
    block = db.DynamicBlock("preact_single(4, norm='none')", 2, db.graded(0, 2, steps=6, ratio=3), "adams_bashforth")
    compiled = block.replaced(compile=True)
    y = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(compiled(y), block(y))
    assert not compiled._programs.failed
    with pytest.raises(db.ConfigurationError, match="compile=True compiles steps of a fixed cost"):
        block.replaced(integrator="adams_bashforth(3)", compile=True)


@pytest.mark.parametrize("order", [0, 1, 5, True, 2.5, "2"])
def test_other_orders_are_refused(order):
    with pytest.raises(db.ConfigurationError, match="must be 2, 3 or 4"):
        AdamsBashforth(order)


def test_its_name():
    assert [AdamsBashforth(order).shorthand for order in ORDERS] == [
        "adams_bashforth", "adams_bashforth(3)", "adams_bashforth(4)"
    ]  # fmt: skip
    block = db.DynamicBlock(Timed, 2, integrator="adams_bashforth(3)")
    assert as_integrator(block.integrator.shorthand) == block.integrator == AdamsBashforth(3)
    described = discretisation(block)
    assert with_discretisation(db.DynamicBlock(Timed, 2), described).integrator == AdamsBashforth(3)
    solution = db.solve(f, torch.ones(1), torch.linspace(0, 1, 11), method="adams_bashforth", options={"order": 4})
    same = db.odeint(f, torch.ones(1), torch.linspace(0, 1, 11), method="adams_bashforth(4)")
    assert torch.equal(solution.y, same)
    with pytest.raises(db.ConfigurationError, match="lets go of the oldest slope"):
        db.with_gradient(block, "reversible")
