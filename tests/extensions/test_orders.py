"""The measured order of integrators of a user's own is the declared one, in blocks and in solves."""

import math
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import Integrator
from tests.extensions.cases import INTEGRATORS

# The leapfrog's second solution, which alternates, is below its first only then.
COUNTS = (64, 128, 256)
GRIDS = {
    "uniform": [db.uniform(0, 2, steps=n) for n in COUNTS],
    "graded": [db.graded(0, 2, steps=n, ratio=3) for n in COUNTS],
}
every = pytest.mark.parametrize("name", INTEGRATORS)
each_grid = pytest.mark.parametrize("grid", GRIDS)


def halves(a, b, q, p):
    return a * p, -b * q**3


def right_hand_side(name, a, b, y):
    """What each integrator is tested with; a and b depend on the time."""
    if name == "own_verlet":
        return np.array(halves(a, b, *y))
    return b * np.cos(y) - a**2 * y if name == "semi_implicit" else -a * y**3


class Parts:
    """The same by parts, for a state (1, channels)."""

    parts: ClassVar = {"field": "forward", "solve": "solve", "first_half": "f1", "second_half": "f2"}

    def slope(self, a, b, y):
        return b * torch.cos(y) if self.name == "semi_implicit" else -a * y**3


class Layer(Parts, nn.Module):
    """With a and b for weights."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.a, self.b = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def forward(self, y):
        return self.slope(self.a, self.b, y)

    def solve(self, y, h):
        return y / (1 + h * self.a**2)

    def f1(self, p):
        return halves(self.a, self.b, p, p)[0]

    def f2(self, q):
        return halves(self.a, self.b, q, q)[1]


def a(t):
    return 0.5 + 0.75 * t


def b(t):
    return 1.5 - 0.5 * t


class Function(Parts, nn.Module):
    """With a and b as functions of the time."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, t, y):
        return self.slope(a(t), b(t), y)

    def solve(self, t, y, h):
        return y / (1 + h * a(t) ** 2)

    def f1(self, t, p):
        return halves(a(t), b(t), p, p)[0]

    def f2(self, t, q):
        return halves(a(t), b(t), q, q)[1]


def start(name):
    return torch.tensor([[1.0, 0.5]]) if name == "own_verlet" else torch.ones(1, 1)


def reference(name, a, b, knots=(0.0, 2.0)):
    """By SciPy, piece by piece."""
    y = start(name)[0].numpy()
    for left, right in pairwise(knots):
        # No time but those inside the piece, where a and b are smooth.
        def inside(t, left=left, right=right):
            return min(max(t, left + 1e-12), right - 1e-12)

        y = solve_ivp(
            lambda t, y, inside=inside: right_hand_side(name, a(inside(t)), b(inside(t)), y),
            (left, right), y, "DOP853", rtol=1e-13, atol=1e-13,
        ).y[:, -1]  # fmt: skip
    return torch.from_numpy(y)


def assert_order(name, errors):
    assert errors[-1] > 1e-12, "below rounding nothing is measured"
    slopes = [math.log2(before / after) for before, after in pairwise(errors)]
    assert slopes[-1] == pytest.approx(INTEGRATORS[name]().order, abs=0.1)


@every
@each_grid
def test_in_a_block(name, grid, float64):
    exact = reference(name, a, b)
    errors = []
    for times in GRIDS[grid]:
        block = db.DynamicBlock(lambda: Layer(name), "linear(2)", times, INTEGRATORS[name]())
        with torch.no_grad():
            for layer, t in zip(block.controls.layers, (0.0, 2.0), strict=True):
                layer.a.fill_(a(t))
                layer.b.fill_(b(t))
            errors.append((block(start(name))[0] - exact).abs().max().item())
    assert_order(name, errors)


@every
@pytest.mark.parametrize("kind", [db.PiecewiseConstant, db.DiscontinuousLinear], ids=lambda kind: kind.name)
def test_in_a_block_whose_weights_jump(name, kind, float64):
    """Pieces of unequal steps, each cut into the same number."""
    knots = (0.0, 0.7, 1.0, 2.0)
    values = torch.tensor([[0.4, 1.5], [1.2, 0.6], [0.8, 1.0], [1.1, 1.4], [0.3, 0.9], [0.9, 1.2]])
    basis = kind(knots=knots)

    def weight(index):
        def at(t):
            n = int(np.searchsorted(knots, t)) - 1
            s = (t - knots[n]) / (knots[n + 1] - knots[n])
            line = values[n] if basis.size == 3 else (1 - s) * values[2 * n] + s * values[2 * n + 1]
            return line[index].item()

        return at

    exact = reference(name, weight(0), weight(1), knots)
    errors = []
    for factor in (32, 64, 128):
        times = db.Grid(knots).refine(factor)
        block = db.DynamicBlock(lambda: Layer(name), basis, times, INTEGRATORS[name]())
        with torch.no_grad():
            block.controls.load_state_dict(
                {f"layers.{k}.{weight}": values[k, i] for k in range(basis.size) for i, weight in enumerate("ab")}
            )
            errors.append((block(start(name))[0] - exact).abs().max().item())
    assert_order(name, errors)


@every
@each_grid
@pytest.mark.parametrize("back", [False, True], ids=["forth", "back"])
def test_in_a_solve(name, grid, back, float64):
    exact = reference(name, a, b)
    y = start(name)
    errors = []
    for times in GRIDS[grid]:
        t, function = torch.tensor(times.points), Function(name)
        method = of_steps(name, times.steps)
        if back:
            t, function = 2 - t, Mirrored(name)
        errors.append((db.odeint(function, y, t, method=method)[-1, 0] - exact).abs().max().item())
    assert_order(name, errors)


class Mirrored(Function):
    """The same, with a time that runs back from 2 to 0."""

    def forward(self, t, y):
        return -super().forward(2 - t, y)

    def solve(self, t, y, h):
        return super().solve(2 - t, y, -h)

    def f1(self, t, p):
        return -super().f1(2 - t, p)

    def f2(self, t, q):
        return -super().f2(2 - t, q)


def of_steps(name, steps) -> Integrator:
    """The instance for so many steps: where it is no block's, that is the caller's to say."""
    return INTEGRATORS[name]().for_block(steps, None)
