"""The midpoint rule of two steps: its orders on grids of several kinds, and steps back."""

import itertools
import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import drift
from dynamicblocks.integrators import TwoStepMidpoint


class Turning(nn.Module):
    """dy/dt = (w + cos t) J y: a rotation by the integral of w + cos t."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, t, y):
        return (self.w + math.cos(t)) * torch.stack((y[:, 1], -y[:, 0]), dim=1)


def smooth(steps):
    """A smooth map of equal steps, by which the longest is three times the shortest."""
    return [2 * (s + math.sin(2 * math.pi * s) / (4 * math.pi)) for s in (n / steps for n in range(steps + 1))]


def alternating(steps):
    """Every second step is twice as long, however many there are."""
    sizes = [1 + n % 2 for n in range(steps)]
    return [2 * part / sum(sizes) for part in itertools.accumulate([0, *sizes])]


GRIDS = {
    "equal": (lambda n: db.uniform(0, 2, steps=n), 2),
    "smooth": (smooth, 2),
    "graded": (lambda n: db.graded(0, 2, steps=n, ratio=3), 2),
    "alternating": (alternating, 1),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_measured_orders(grid, float64):
    """theta(t) = 0.5 + 0.75 t on [0, 2]."""
    make, order = GRIDS[grid]
    angle = 0.5 * 2 + 0.75 * 2 + math.sin(2)
    exact = torch.tensor([[math.cos(angle), -math.sin(angle)]])
    errors = []
    for steps in (64, 512):
        block = db.DynamicBlock(Turning, db.PiecewiseLinear(knots=(0, 2)), make(steps), "two_step_midpoint")
        with torch.no_grad():
            block.controls.layers[0].w.fill_(0.5)
            block.controls.layers[1].w.fill_(2.0)
            errors.append((block(torch.tensor([[1.0, 0.0]])) - exact).norm().item())
    assert math.log(errors[0] / errors[1], 8) == pytest.approx(order, abs=0.1)


def test_steps_by_hand():
    """y' = t + y from y(1) = 2 with steps of 1/2 and 1: y1 = 2 + 3/2, y2 = 2 + 3/2 (3/2 + 7/2)."""
    f, midpoint = lambda t, y: t + y, TwoStepMidpoint()
    carry = midpoint.step(f, 1.0, 0.5, midpoint.start(f, 1.0, 0.5, torch.tensor([2.0])))
    assert midpoint.finish(carry).item() == 3.5
    assert midpoint.finish(midpoint.step(f, 1.5, 1.0, carry)).item() == 9.5


def test_equal_steps_are_those_of_the_published_recursion(float64):
    block = db.DynamicBlock("antisymmetric(3)", 4, integrator="two_step_midpoint")
    state = torch.randn(2, 3, 5, 5)
    now = state + block.controls.layers[0](state)
    before = state
    for layer in block.controls.layers[1:]:
        now, before = before + 2 * layer(now), now
    torch.testing.assert_close(block(state), now, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", ["uniform(0, 20, steps=200)", "graded(0, 20, steps=200, ratio=5)"])
def test_200_steps_of_an_antisymmetric_layer_are_taken_back(times, float64):
    """Piecewise constant weights jump, on whose steps the method runs on."""
    block = db.DynamicBlock("antisymmetric(3, norm='none', activation='tanh')", 20, times, "two_step_midpoint")
    assert drift(block, torch.randn(2, 3, 5, 5)) < 1e-10


def test_a_step_back_without_the_size_of_the_one_before(float64):
    midpoint, stage, y = TwoStepMidpoint(), lambda c, y: torch.stack((y[1], -torch.sin(y[0]))), torch.randn(2)
    carry = midpoint.begin(stage, 0.1, y)
    for _ in range(50):
        carry = midpoint.advance(stage, 0.1, carry)
    for _ in range(50):
        carry = midpoint.unstep(stage, 0.1, carry)
    torch.testing.assert_close(carry[0], y, rtol=0, atol=1e-13)


def test_gradients_of_times(float64):
    rate = torch.tensor(1.3, requires_grad=True)
    y0, t = torch.randn(3, requires_grad=True), torch.tensor([0.0, 0.2, 0.5, 0.6, 0.9], requires_grad=True)

    def run(y0, t, rate):
        return db.odeint(lambda t, y: torch.sin(rate * y) * (1 + t), y0, t, method="two_step_midpoint")[1:]

    assert torch.autograd.gradcheck(run, (y0, t, rate), fast_mode=True)


def test_its_second_solution_grows_where_the_first_decays(float64):
    """y' = -y: unstable at any step, which the documents say."""
    t = torch.linspace(0, 40, 401)
    assert db.odeint(lambda t, y: -y, torch.ones(1), t, method="two_step_midpoint")[-1].abs() > 1e10
