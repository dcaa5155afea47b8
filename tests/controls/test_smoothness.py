"""The penalty on d theta / dt."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Controls
from tests.optional import optional
from tests.weights_in_time import (
    Chebyshev,
    Constant,
    Discontinuous,
    Legendre,
    Linear,
    Scalar,
    scalar_controls,
)

KINDS = ["l2", "l1", "smooth_l1"]
(fixed_quad,) = optional("scipy.integrate", "fixed_quad")


def test_smoothness_of_a_line_is_the_integral_of_its_squared_slope():
    controls = scalar_controls(Linear(knots=(0, 1, 4, 4.5)), [0, 2, -1, 1])
    # Slopes 2, -1 and 4 on lengths 1, 3 and 1/2.
    assert controls.smoothness().item() == pytest.approx(4 * 1 + 1 * 3 + 16 * 0.5, rel=1e-15)
    integral = sum(
        fixed_quad(lambda t: (np.gradient(np.interp(t, controls.basis.knots, [0, 2, -1, 1]), t)) ** 2, a, b, n=5)[0]
        for a, b in pairwise(controls.basis.knots)
    )
    assert controls.smoothness("l2").item() == pytest.approx(integral, rel=1e-12)


def test_smoothness_of_constants_measures_between_midpoints():
    controls = scalar_controls(Constant(knots=(0, 2, 4, 10)), [1, 4, 0])
    # Midpoints 1, 3 and 7: slopes 3/2 and -1 on lengths 2 and 4.
    assert controls.smoothness().item() == pytest.approx(2.25 * 2 + 1 * 4, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothness_of_lines_with_jumps_is_that_of_a_line_or_of_constants(kind):
    knots = (0, 2, 4, 10)
    jumping = Discontinuous(knots=knots)
    assert jumping.distances() == (2, 2, 2, 4, 6)
    line, constants = (
        scalar_controls(Linear(knots=knots), [1, 4, 0, 2]),
        scalar_controls(Constant(knots=knots), [1, 4, 0]),
    )
    for plain in (line, constants):
        same = plain.project(jumping)
        assert same.smoothness(kind).item() == pytest.approx(plain.smoothness(kind).item(), rel=1e-12)


@pytest.mark.parametrize("kind", [Legendre, Chebyshev])
def test_smoothness_of_polynomials_measures_between_nodes(kind):
    basis = kind(4, (1, 3))
    times = [basis.time(node) for node in basis.nodes]
    assert basis.distances() == pytest.approx(np.diff(times), rel=1e-14)
    slope = 3.0
    line = scalar_controls(basis, [slope * time for time in times])
    assert line.smoothness().item() == pytest.approx(slope**2 * (times[-1] - times[0]), rel=1e-13)


def test_smoothness_l1_is_the_total_variation_and_smooth_l1_the_rounded_one():
    controls = scalar_controls(Linear(knots=(0, 1, 4, 4.5)), [0, 2, -1, 1])
    assert controls.smoothness("l1").item() == pytest.approx(2 + 3 + 2, rel=1e-15)
    rounded = [math.hypot(slope, 0.5) - 0.5 for slope in (2, -1, 4)]
    expected = rounded[0] * 1 + rounded[1] * 3 + rounded[2] * 0.5
    assert controls.smoothness("smooth_l1", eps=0.5).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothness_adds_over_entries_and_parameters(kind):
    basis, values = Linear(knots=(0, 1, 4)), [(0, 3), (2, 1), (5, 5)]
    together = scalar_controls(basis, values).smoothness(kind)
    alone = [scalar_controls(basis, [value[entry] for value in values]).smoothness(kind) for entry in (0, 1)]
    torch.testing.assert_close(together, alone[0] + alone[1], rtol=1e-14, atol=0)
    pairs = Controls([nn.Sequential(Scalar(a), Scalar(b)) for a, b in values], basis)
    torch.testing.assert_close(pairs.smoothness(kind), together, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothness_has_the_gradient_of_finite_differences(kind):
    controls = scalar_controls(Linear(knots=(0, 1, 4)), [0.3, 2.0, -1.0])
    controls.smoothness(kind).backward()
    for layer in controls.layers:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.theta.add_(sign * 1e-6)
                ends.append(controls.smoothness(kind).item())
                layer.theta.sub_(sign * 1e-6)
        assert layer.theta.grad.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "controls",
    [
        scalar_controls(Constant(knots=(0, 4)), [3.0]),
        scalar_controls(Linear(knots=(0, 1, 4)), [3.0] * 3),
        Controls([nn.ReLU(), nn.ReLU()], Constant(2)),
    ],
    ids=["single", "equal", "weightless"],
)
def test_controls_that_do_not_change_are_smooth(kind, controls):
    basis = controls.basis.over(db.Grid((0, 4)))
    assert Controls(controls.layers, basis).smoothness(kind).item() == 0


def test_unknown_penalties_are_named():
    with pytest.raises(db.ConfigurationError, match=r"unknown smoothness penalty 'l3'\. Known: l1, l2, smooth_l1"):
        scalar_controls(Constant(knots=(0, 1)), [1]).smoothness("l3")
