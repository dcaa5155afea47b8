"""The leapfrog of y'' = F(t, y): its starts, orders and steps back."""

import itertools
import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import drift
from dynamicblocks.integrators import Leapfrog, as_integrator

STARTS = ["rest", "equal", "zero"]


class Airy(nn.Module):
    """F = -w (1 + t) sin(y), with weights that may depend on time."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, t, y):
        return -self.w * (1 + t) * torch.sin(y)


def sizes_of(kind, steps):
    """Of equal steps; of steps of which every second is twice as long; of steps of any size."""
    if kind == "random":
        # The first, to which the error of the start "equal" is proportional, is as long as they are in the mean.
        return [1.0, *(0.5 + torch.rand(steps - 1, generator=torch.Generator().manual_seed(steps))).tolist()]
    return [1 + n % 2 * (kind == "alternating") for n in range(steps)]


def points(kind, steps, end=2.0):
    sizes = sizes_of(kind, steps)
    return [end * part / sum(sizes) for part in itertools.accumulate([0, *sizes])]


def solved(start, kind, steps):
    """The states for theta(t) = 0.5 + 0.75 t on [0, 2], with their times."""
    integrator = f"leapfrog({start!r})"
    block = db.DynamicBlock(Airy, db.PiecewiseLinear(knots=(0, 2)), points(kind, steps), integrator)
    with torch.no_grad():
        block.controls.layers[0].w.fill_(0.5)
        block.controls.layers[1].w.fill_(2.0)
        return block.trajectory(torch.ones(1, 1)).flatten(), block.times.points


def error(start, kind, steps):
    """The largest on the way, beside SciPy."""

    def slope(t, state):
        return [state[1], -(0.5 + 0.75 * t) * (1 + t) * math.sin(state[0])]

    found, times = solved(start, kind, steps)
    exact = solve_ivp(slope, (0, 2), [1.0, 0.0], t_eval=times, rtol=1e-12, atol=1e-12).y[0]
    return (found - torch.from_numpy(exact)).abs().max().item()


@pytest.mark.parametrize(("start", "order"), [("rest", 2), ("equal", 1)])
@pytest.mark.parametrize("kind", ["equal", "alternating", "random"])
def test_measured_orders(start, order, kind, float64):
    assert Leapfrog(start).order == order
    errors = [error(start, kind, steps) for steps in (64, 512)]
    assert math.log(errors[0] / errors[1], 8) == pytest.approx(order, abs=0.1)


def test_zero_has_no_limit(float64):
    """Its first velocity is y0 / h: the states grow with the number of steps."""
    assert error("zero", "equal", 128) > 1.5 * error("zero", "equal", 64) > 10
    assert Leapfrog("zero").order == 0


@pytest.mark.parametrize("start", STARTS)
def test_equal_steps_are_those_of_the_published_recursion(start, float64):
    """y(n+1) = 2 y(n) - y(n-1) + h^2 F, with y(-1) = y0, y(-1) = 0, or y1 = y0 + h^2 F / 2."""
    h, block = 0.5, db.DynamicBlock("symmetric(3)", 5, db.uniform(0, 2.5, steps=5), f"leapfrog({start!r})")
    y = torch.randn(2, 3, 5, 5)
    now, before = y, {"rest": None, "equal": y, "zero": torch.zeros_like(y)}[start]
    for layer in block.controls.layers:
        force = h**2 * layer(now)
        now, before = (now + force / 2 if before is None else 2 * now - before + force), now
    torch.testing.assert_close(block(y), now, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("times", ["uniform(0, 20, steps=200)", "graded(0, 20, steps=200, ratio=5)"])
def test_200_steps_are_taken_back(start, times, float64):
    """Piecewise constant weights jump, on whose steps the method runs on; alone and in a block."""
    block = db.DynamicBlock("symmetric(3, norm='none', activation='tanh')", 20, times, f"leapfrog({start!r})")
    assert drift(block, torch.randn(2, 3, 5, 5)) < 1e-10


@pytest.mark.parametrize("start", STARTS)
def test_a_step_back_without_the_size_of_the_one_before(start, float64):
    """On equal steps it need not be told, and what it leads to is a carry that leads on alike."""
    integrator, stage, y = Leapfrog(start), lambda c, y: -torch.sin(y), torch.randn(4)
    begun = carry = integrator.begin(stage, 0.1, y)
    for _ in range(50):
        carry = integrator.advance(stage, 0.1, carry)
    back = carry
    for _ in range(50):
        back = integrator.unstep(stage, 0.1, back)
    torch.testing.assert_close(back[0], y, rtol=0, atol=1e-13)
    for _ in range(2):
        back, begun = integrator.advance(stage, 0.1, back), integrator.advance(stage, 0.1, begun)
    torch.testing.assert_close(back[:2], begun[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_gradients_of_states_weights_and_times(start, float64):
    rate = torch.tensor(1.3, requires_grad=True)
    y0, t = torch.randn(3, requires_grad=True), torch.tensor([0.0, 0.2, 0.5, 0.6, 0.9], requires_grad=True)

    def run(y0, t, rate, gradient="backprop"):
        field = lambda t, y: -torch.sin(rate * y) * (1 + t)  # noqa: E731
        return db.odeint(field, y0, t, method=Leapfrog(start), gradient=gradient)[1:]

    assert torch.autograd.gradcheck(run, (y0, t, rate), fast_mode=True)
    weights = torch.randn(4, 3)
    one, two = (
        torch.autograd.grad((run(y0, t, rate, mode) * weights).sum(), (y0, t, rate))
        for mode in ("backprop", "reversible")
    )
    for found, expected in zip(two, one, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_zero_is_bound_to_its_steps():
    block = db.DynamicBlock("symmetric(3)", 4, integrator="leapfrog('zero')")
    changes = [
        lambda: db.refine(block),
        lambda: db.with_integrator(block, steps=6),
        lambda: db.with_integrator(block, steps=8),
        lambda: db.with_integrator(block, "leapfrog('zero')", steps=8),
        lambda: db.with_integrator(block, steps_factor=2),
        lambda: block.replaced(times=2),
        lambda: as_integrator("leapfrog('zero')").refined(2),
    ]
    for change in changes:
        with pytest.raises(db.ConfigurationError, match=r"leapfrog\('zero'\).*y0 / h.*leapfrog\('rest'\)"):
            change()
    assert db.refine(block, steps=False).steps == 4
    assert db.with_integrator(block, "leapfrog", steps=8).steps == 8
    assert db.refine(db.with_integrator(block, "leapfrog('equal')")).steps == 8


def test_solves_want_to_be_told_that_the_equation_is_of_second_order():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    y0 = torch.ones(1, dtype=torch.float64)
    field = lambda t, y: -y  # noqa: E731
    for solve in (db.odeint, db.solve):
        with pytest.raises(db.ConfigurationError, match=r"leapfrog is no method of .*second order.*two_step_midpoint"):
            solve(field, y0, t, method="leapfrog")
    found = db.odeint(field, y0, t, method="leapfrog('rest')")
    torch.testing.assert_close(found[:, 0], torch.cos(t), rtol=0, atol=1e-5)
    with pytest.raises(db.ConfigurationError, match="leapfrog solves another equation"):
        db.DynamicBlock("symmetric(3)", 2, integrator="leapfrog", gradient="adjoint")


def test_names_of_starts():
    assert as_integrator("leapfrog(start='equal')") == Leapfrog("equal")
    assert [as_integrator(Leapfrog(start).shorthand) for start in STARTS] == [Leapfrog(start) for start in STARTS]
    with pytest.raises(db.ConfigurationError, match="did you mean 'rest'"):
        as_integrator("leapfrog('rests')")
