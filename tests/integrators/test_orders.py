"""Order of convergence and stage times of every integrator."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import TABLEAUS
from tests.layer_tools import Bend

# Every rooted tree with up to four vertices: (name, order, gamma), with its elementary weight computed below.
GAMMA = {
    "t1": (1, 1),
    "t2": (2, 2),
    "t31": (3, 3),
    "t32": (3, 6),
    "t41": (4, 4),
    "t42": (4, 8),
    "t43": (4, 12),
    "t44": (4, 24),
}


def solve(integrator, grid):
    """The block on [0, 2] with theta(t) = 0.5 + 0.75 t, from y = 1."""
    block = db.DynamicBlock(Bend, db.PiecewiseLinear(knots=(0, 2)), grid, integrator)
    with torch.no_grad():
        block.controls.layers[0].theta.fill_(0.5)
        block.controls.layers[1].theta.fill_(2.0)
        return block(torch.ones(1, 1)).item()


EXACT = (1 + 2 * (0.5 * 2 + 0.75 * 2**2 / 2)) ** -0.5


@pytest.mark.parametrize("grid", ["uniform", "graded"])
@pytest.mark.parametrize("integrator", [tableau.name for tableau in TABLEAUS])
def test_measured_order_is_the_declared_one(integrator, grid, float64):
    counts = [32, 64, 128]
    grids = {
        "uniform": [db.uniform(0, 2, steps=n) for n in counts],
        "graded": [db.graded(0, 2, steps=n, ratio=3) for n in counts],
    }[grid]
    errors = [abs(solve(integrator, g) - EXACT) for g in grids]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] > 1e-13, "below rounding nothing is measured"
    assert slopes[-1] == pytest.approx(db.as_integrator(integrator).order, abs=0.1)


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda tableau: tableau.name)
def test_stages_stand_at_their_times(tableau):
    seen = []

    def field(t, y):
        seen.append(t)
        return y

    db.RungeKutta(tableau).step(field, 3.0, 0.25, torch.ones(1))
    expected = {
        "euler": [0],
        "midpoint": [0, 1 / 2],
        "heun2": [0, 1],
        "ralston2": [0, 2 / 3],
        "kutta3": [0, 1 / 2, 1],
        "heun3": [0, 1 / 3, 2 / 3],
        "ssprk3": [0, 1, 1 / 2],
        "rk4": [0, 1 / 3, 2 / 3, 1],
        "rk4_classic": [0, 1 / 2, 1 / 2, 1],
    }[tableau.name]
    assert seen == pytest.approx([3 + 0.25 * c for c in expected], abs=1e-15)


def test_a_layer_with_time_is_called_at_the_stage_times():
    seen = []

    class Clock(nn.Module):
        def forward(self, t, y):
            seen.append(t)
            return y

    db.DynamicBlock(Clock, 1, db.Grid((1, 1.5, 3)), "rk4_classic")(torch.ones(1, 1))
    assert seen == pytest.approx([1, 1.25, 1.25, 1.5, 1.5, 2.25, 2.25, 3], abs=1e-15)


@pytest.mark.parametrize("tableau", TABLEAUS, ids=lambda tableau: tableau.name)
def test_order_conditions(tableau):
    """The conditions b . Phi(tree) = 1 / gamma(tree) hold for exactly the declared order."""
    n = len(tableau.b)
    a = torch.zeros(n, n, dtype=torch.float64)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    b, c = torch.tensor(tableau.b, dtype=torch.float64), a.sum(dim=1)
    weights = {
        "t1": b.sum(),
        "t2": b @ c,
        "t31": b @ c**2,
        "t32": b @ a @ c,
        "t41": b @ c**3,
        "t42": (b * c) @ a @ c,
        "t43": b @ a @ c**2,
        "t44": b @ a @ a @ c,
    }
    failed = {order for name, (order, gamma) in GAMMA.items() if abs(weights[name].item() - 1 / gamma) > 1e-12}
    first_failed = min(failed, default=5)
    assert first_failed == tableau.order + 1


def test_a_tableau_of_ones_own():
    third = db.Tableau("third", 3, ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6))
    y = db.RungeKutta(third).step(lambda t, y: torch.full_like(y, 3 * t**2), 0.0, 1.0, torch.zeros(1))
    assert y.item() == pytest.approx(1.0)


def test_bad_tableaus_and_integrators():
    with pytest.raises(db.ConfigurationError, match=r"rows of length \[0, 1\]"):
        db.Tableau("bad", 2, ((), ()), (0, 1))
    with pytest.raises(db.ConfigurationError, match=r"sum to 1, got 1\.5"):
        db.Tableau("bad", 2, ((), (1,)), (0.5, 1))
    with pytest.raises(db.ConfigurationError, match="did you mean 'midpoint'"):
        db.as_integrator("midpiont")
    with pytest.raises(db.ConfigurationError, match="got 4"):
        db.as_integrator(4)
