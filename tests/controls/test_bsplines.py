"""Weights that are a cubic spline in time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.optional import optional
from tests.weights_in_time import Spline, knot_lists, scalar_controls

BSpline, insert = optional("scipy.interpolate", "BSpline", "insert")

KNOTS = (0.0, 1.0, 2.5, 4.0)


def spline(basis, coefficients):
    """The same spline by SciPy."""
    return BSpline(np.pad(np.array(basis.knots), 3, mode="edge"), np.asarray(coefficients, dtype=float), 3)


@settings(deadline=None)
@given(knot_lists, st.floats(0, 1))
def test_terms_are_at_most_four_neighbours(knots, fraction):
    basis = Spline(knots=knots)
    for interval in range(len(knots) - 1):
        indices = [index for index, _ in basis.terms(interval, fraction)]
        assert set(indices) <= {interval + k for k in range(4)}


def test_both_ends_read_one_control():
    basis = Spline(knots=KNOTS)
    assert basis.terms(0, 0.0) == ((0, 1.0),)
    assert basis.terms(2, 1.0) == ((5, 1.0),)


def test_at_a_knot_both_sides_read_the_same_three_controls():
    basis = Spline(knots=KNOTS)
    left, right = basis.terms(0, 1.0), basis.terms(1, 0.0)
    assert [index for index, _ in left] == [index for index, _ in right] == [1, 2, 3]
    assert [weight for _, weight in left] == pytest.approx([weight for _, weight in right], rel=1e-14)


@settings(deadline=None)
@given(knot_lists, st.lists(st.floats(-1, 1), min_size=9, max_size=9))
def test_difference_quotients_are_the_coefficients_of_the_derivative(knots, values):
    basis = Spline(knots=knots)
    coefficients = np.array(values[: basis.size])
    quotients = np.diff(coefficients) / basis.distances()
    expected = spline(basis, coefficients).derivative().c[: basis.size - 1]
    np.testing.assert_allclose(quotients, expected, rtol=1e-10, atol=1e-10)


def test_the_penalty_bounds_the_integral_of_the_squared_slope():
    basis = Spline(knots=KNOTS)
    for coefficients in ([0, 2, -1, 1, 4, 0.5], np.linspace(0, 3, 6) ** 2, [-1.0] * 6):
        slope = spline(basis, coefficients).derivative()
        times = np.linspace(0, 4, 20001)
        integral = float(torch.trapezoid(torch.as_tensor(slope(times) ** 2), torch.as_tensor(times)))
        assert scalar_controls(basis, coefficients).smoothness().item() >= integral - 1e-9
    line = [basis.time(node) for node in basis.nodes]
    assert scalar_controls(basis, line).smoothness().item() == pytest.approx(4, rel=1e-13)


@pytest.mark.parametrize("factor", [2, 3])
def test_refinement_inserts_knots(factor):
    basis = Spline(knots=KNOTS)
    finer = basis.refine(factor)
    coefficients = np.array([0.3, 2.0, -1.0, 1.0, 4.0, 0.5])
    reference = spline(basis, coefficients)
    for time in finer.knots:
        if time not in KNOTS:
            reference = insert(time, reference)
    np.testing.assert_allclose(
        finer.controls_from(basis) @ coefficients, reference.c[: finer.size], rtol=1e-14, atol=1e-14
    )


@settings(deadline=None)
@given(knot_lists, st.integers(2, 4))
def test_refined_controls_lie_between_the_old_ones(knots, factor):
    matrix = Spline(knots=knots).refine(factor).controls_from(Spline(knots=knots))
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-14)
    assert matrix[0, 0] == matrix[-1, -1] == 1


def test_a_spline_on_one_interval_is_a_cubic():
    basis = Spline(4, (0, 2))
    assert [basis.time(node) for node in basis.nodes] == pytest.approx([0, 2 / 3, 4 / 3, 2])
    bernstein = [(1 - 0.3) ** 3, 3 * 0.3 * 0.7**2, 3 * 0.3**2 * 0.7, 0.3**3]
    assert [weight for _, weight in basis.terms(0, 0.3)] == pytest.approx(bernstein, rel=1e-14)
