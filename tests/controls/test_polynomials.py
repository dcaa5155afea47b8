"""Weights that are one polynomial in time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamicblocks as db
from dynamicblocks.controls import Alignment, ControlledField
from tests.optional import optional
from tests.weights_in_time import (
    Chebyshev,
    Legendre,
    basis_functions,
    double,
    polynomial_nodes,
    polynomials,
    scalar_controls,
)

(BarycentricInterpolator,) = optional("scipy.interpolate", "BarycentricInterpolator")

SIZES = [1, 2, 3, 5, 8, 16]


def row(basis, fraction):
    return basis.values([(0, fraction)])[0]


@polynomials
@pytest.mark.parametrize("size", SIZES)
def test_terms_are_the_polynomials_through_the_nodes(kind, size):
    basis = kind(size, (1, 4))
    fractions = np.linspace(0, 1, 23)
    rows = np.stack([row(basis, fraction) for fraction in fractions])
    np.testing.assert_allclose(rows, basis_functions(basis, 1 + 3 * fractions), rtol=0, atol=1e-12)


@polynomials
@pytest.mark.parametrize("size", SIZES)
def test_theta_at_a_node_is_the_control_alone(kind, size):
    basis = kind(size, (-1, 1))
    assert [basis.time(node) for node in basis.nodes] == pytest.approx(polynomial_nodes(basis), abs=1e-14)
    for index, node in enumerate(basis.nodes):
        for neighbour in (node.fraction, np.nextafter(node.fraction, 2), np.nextafter(node.fraction, -1)):
            assert basis.terms(0, neighbour) == ((index, 1.0),)


def test_chebyshev_nodes_include_the_ends_and_legendre_nodes_do_not():
    assert [node.fraction for node in Chebyshev(3).nodes] == [0.0, 0.5, 1.0]
    assert [node.fraction for node in Chebyshev(1).nodes] == [0.5] == [node.fraction for node in Legendre(1).nodes]
    fractions = [node.fraction for node in Legendre(2).nodes]
    assert fractions == pytest.approx([0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12)], abs=1e-15)


@polynomials
@settings(deadline=None)
@given(size=st.integers(1, 24), fraction=st.floats(0, 1))
def test_polynomials_are_partitions_of_unity(kind, size, fraction):
    terms = kind(size).terms(0, fraction)
    assert math.fsum(weight for _, weight in terms) == pytest.approx(1.0, rel=1e-13)
    assert [index for index, _ in terms] in ([*range(size)], [terms[0][0]])


@polynomials
@settings(deadline=None)
@given(st.integers(2, 12), st.sampled_from([1e-3, 1e-8, 1e-11, 1e-13, -1e-8]))
def test_beside_a_node_nothing_is_lost(kind, size, distance):
    basis = kind(size, (0, 1))
    controls = np.cos(3 * np.arange(size))
    reference = BarycentricInterpolator(0.5 + polynomial_nodes(basis) / 2, controls)
    for node in basis.nodes[1:-1]:
        fraction = node.fraction + distance
        assert row(basis, fraction) @ controls == pytest.approx(reference(fraction).item(), abs=1e-10)


@polynomials
def test_a_block_reads_the_polynomial_at_its_stages(kind):
    """theta(t) = t^3 - 2 t + 1 on [0, 2], read at the stages of rk4_classic on three unequal steps."""
    basis = kind(4, (0, 2))
    theta = np.polynomial.Polynomial([1, -2, 0, 1])
    controls = scalar_controls(basis, [theta(basis.time(node)) for node in basis.nodes])
    grid = db.Grid((0, 0.3, 1.4, 2))
    field = ControlledField(controls, Alignment(grid, basis.points))
    one = torch.ones(1, dtype=double)
    for step, (start, size) in enumerate(zip(grid.points, grid.sizes, strict=False)):
        for fraction in (0.0, 0.5, 1.0):
            assert field.on_step(step)(fraction, one).item() == pytest.approx(theta(start + fraction * size), abs=1e-14)


@polynomials
def test_refinement_multiplies_the_controls_and_keeps_the_span(kind):
    assert kind(3, (0, 2)).refine(2) == kind(6, (0, 2))
    assert kind(6, (0, 2)).coarsen(3) == kind(2, (0, 2))
    with pytest.raises(db.ConfigurationError, match="6 controls of a polynomial cannot be divided by 4"):
        kind(6, (0, 2)).coarsen(4)
    with pytest.raises(db.ConfigurationError, match="has no size yet; give one"):
        kind(knots=(0, 2)).refine()


@polynomials
def test_the_knots_of_a_polynomial_are_its_ends(kind):
    with pytest.raises(db.ConfigurationError, match=r"its knots are the two ends, got 3 knots"):
        kind(3, (0, 1, 2))
    assert kind(3, (0, 1)).intervals == 1
    assert kind(knots=(0, 1)).over(db.uniform(0, 1, steps=4)) == kind(4, (0, 1))
