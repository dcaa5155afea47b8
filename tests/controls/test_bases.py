"""Bases in time: terms, nodes, knots and their defaults."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamicblocks as db
from dynamicblocks.controls import as_basis
from tests.weights_in_time import (
    Chebyshev,
    Constant,
    Discontinuous,
    Legendre,
    Linear,
    Scalar,
    Spline,
    basis_functions,
    double,
    knot_lists,
    pieces,
    scalar_controls,
)


def test_constant_terms_are_the_interval():
    basis = Constant(knots=(0, 1, 4))
    assert basis.size == 2
    for fraction in (0.0, 0.3, 1.0):
        assert basis.terms(1, fraction) == ((1, 1.0),)


def test_linear_terms_are_the_neighbours_and_one_at_a_knot():
    basis = Linear(knots=(0, 1, 4))
    assert basis.size == 3
    assert basis.terms(1, 0.25) == ((1, 0.75), (2, 0.25))
    assert basis.terms(1, 0.0) == ((1, 1.0),)
    assert basis.terms(1, 1.0) == ((2, 1.0),)


def test_discontinuous_terms_are_the_two_ends_of_the_interval():
    basis = Discontinuous(knots=(0, 1, 4))
    assert basis.size == 4
    assert basis.terms(0, 1.0) == ((1, 1.0),)
    assert basis.terms(1, 0.0) == ((2, 1.0),)
    assert basis.terms(1, 0.25) == ((2, 0.75), (3, 0.25))


@pieces
@settings(deadline=None)
@given(knot_lists, st.floats(0, 1))
def test_bases_are_nonnegative_partitions_of_unity(kind, knots, fraction):
    basis = kind(knots=knots)
    for interval in range(len(knots) - 1):
        terms = basis.terms(interval, fraction)
        assert math.fsum(weight for _, weight in terms) == pytest.approx(1.0, rel=1e-14 if kind is Spline else 1e-15)
        assert all(weight >= 0 for _, weight in terms)
        assert all(0 <= index < basis.size for index, _ in terms)


@pieces
@settings(deadline=None)
@given(knot_lists, st.floats(0.001, 0.999))
def test_terms_are_the_basis_functions(kind, knots, fraction):
    basis = kind(knots=knots)
    for interval, (a, b) in enumerate(pairwise(basis.knots)):
        row = np.zeros(basis.size)
        for index, weight in basis.terms(interval, fraction):
            row[index] = weight
        expected = basis_functions(basis, np.array([a + fraction * (b - a)]))[0]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        (Constant, (0.5, 2.5)),
        (Linear, (0, 1, 4)),
        (Discontinuous, (0, 1, 1, 4)),
        (Spline, (0, 1 / 3, 5 / 3, 3, 4)),
    ],
)
def test_controls_stand_at_the_nodes(kind, times):
    basis = kind(knots=(0, 1, 4))
    assert [basis.time(node) for node in basis.nodes] == pytest.approx(times, abs=1e-15)


@pytest.mark.parametrize("kind", [Constant, Linear, Discontinuous])
def test_theta_at_a_node_is_the_control(kind):
    basis = kind(knots=(0, 1, 4))
    assert [basis.terms(*node) for node in basis.nodes] == [((k, 1.0),) for k in range(basis.size)]


LEAST = [(Constant, 1), (Linear, 2), (Discontinuous, 2), (Spline, 4), (Legendre, 1), (Chebyshev, 1)]


@pytest.mark.parametrize(("kind", "least"), LEAST)
def test_bases_need_enough_controls(kind, least):
    assert kind(least).over(db.Grid((0, 1))).knots == (0.0, 1.0)
    for size in (least - 1, 2.5, True):
        message = f"controls of {kind.__name__} must be a whole number of at least {least}, got {size!r}"
        with pytest.raises(db.ConfigurationError, match=re.escape(message)):
            kind(size)


def test_two_controls_an_interval_are_an_even_number():
    with pytest.raises(db.ConfigurationError, match="no number of intervals makes 5 controls; 4 or 6 would do"):
        as_basis("discontinuous_linear(5)")


@pytest.mark.parametrize(("kind", "made"), [(Constant, 2), (Linear, 3), (Discontinuous, 4), (Spline, 5)])
def test_size_and_knots_must_agree(kind, made):
    assert kind(made, (0, 1, 4)) == kind(knots=(0.0, 1.0, 4.0))
    with pytest.raises(db.ConfigurationError, match=f"3 knots make {made} controls, but 8 were asked for"):
        kind(8, (0, 1, 4))


@pieces
def test_knots_must_increase(kind):
    with pytest.raises(db.ConfigurationError, match=r"knots must increase strictly, but point 1 is 2\.0"):
        kind(knots=(0, 2, 2))


@pieces
def test_a_basis_without_knots_has_no_points(kind):
    with pytest.raises(db.ConfigurationError, match="has no knots yet"):
        kind(6).refine()


@pytest.mark.parametrize(
    ("basis", "knots"),
    [
        (Constant(), (0, 1, 4, 6)),
        (Linear(), (0, 1, 4, 6)),
        (Constant(3), (0, 2, 4, 6)),
        (Linear(3), (0, 3, 6)),
        (Constant(knots=(0, 5, 9)), (0, 5, 9)),
        (Discontinuous(), (0, 1, 4, 6)),
        (Discontinuous(6), (0, 2, 4, 6)),
        (Spline(), (0, 1, 4, 6)),
        (Spline(6), (0, 2, 4, 6)),
        (Legendre(5), (0, 6)),
        (Chebyshev(), (0, 6)),
    ],
    ids=repr,
)
def test_knots_by_default_come_from_the_grid(basis, knots):
    assert basis.over(db.Grid((0, 1, 4, 6))).knots == knots


@pytest.mark.parametrize(
    ("text", "basis"),
    [
        ("constant", Constant()),
        ("linear(5)", Linear(5)),
        ("constant(knots=(0, 1, 4))", Constant(knots=(0, 1, 4))),
        ("discontinuous_linear(6)", Discontinuous(6)),
        ("bspline(7)", Spline(7)),
        ("legendre(5)", Legendre(5)),
        ("chebyshev(5, knots=(0, 2))", Chebyshev(5, (0, 2))),
        (3, Constant(3)),
        (Linear(4), Linear(4)),
    ],
)
def test_shorthands_of_bases(text, basis):
    assert as_basis(text) == basis


@pytest.mark.parametrize("controls", [True, 2.5, None], ids=repr)
def test_other_shorthands_are_refused(controls):
    with pytest.raises(db.ConfigurationError, match=f"controls must be a basis.* got {controls!r}"):
        as_basis(controls)


@pytest.mark.parametrize(
    ("controls", "points", "size"),
    [
        ("constant(4)", (0, 1, 2, 3, 4), 4),
        ("linear(4)", (0, 1, 2, 3), 4),
        ("discontinuous_linear(4)", (0, 1, 2), 4),
        ("bspline(4)", (0, 1), 4),
        ("legendre(4)", (0, 1, 2, 3, 4), 4),
        ("chebyshev(4, knots=(0, 2))", (0, 0.5, 1, 1.5, 2), 4),
        ("linear(knots=(0, 1, 4))", (0, 1, 4), 3),
    ],
)
def test_a_block_without_times_has_a_step_for_each_interval_or_control_of_a_polynomial(controls, points, size):
    block = db.DynamicBlock("symmetric(2)", controls)
    assert block.times.points == points
    assert len(block.controls) == size


@pytest.mark.parametrize("controls", ["constant", "bspline", "legendre", "chebyshev(knots=(0, 2))"])
def test_a_block_without_times_needs_a_number_of_controls(controls):
    with pytest.raises(db.ConfigurationError, match="give times, or a number of controls"):
        db.DynamicBlock("symmetric(2)", controls)


@pytest.mark.parametrize(
    ("controls", "size"),
    [("constant", 3), ("linear", 4), ("discontinuous_linear", 6), ("bspline", 6), ("legendre", 3), ("chebyshev", 3)],
)
def test_the_number_of_controls_by_default_suits_the_steps(controls, size):
    assert len(db.DynamicBlock("symmetric(2)", controls, (0, 1, 4, 6)).controls) == size
    net = db.create_model("dynamicnet", widths=(2,), units=3, steps=6, controls=controls)
    assert len(net.blocks[0].controls) == size


@pytest.mark.parametrize("controls", ["constant(4)", "linear(5)"])
def test_a_new_grid_never_stretches_the_knots(controls):
    block = db.DynamicBlock(lambda: Scalar(0.0), controls, times=db.uniform(0, 4, steps=4))
    with torch.no_grad():
        for index, layer in enumerate(block.controls.layers):
            layer.theta.fill_(index)
    half = block.replaced(times=db.uniform(0, 2, steps=20))
    assert half.controls.basis.knots == (0, 1, 2, 3, 4)
    # log y(2) under Euler: the sum of log(1 + h theta(t)) over the twenty left ends t, theta known by hand.
    ends = [n / 10 for n in range(20)]
    theta = [float(math.floor(t)) if controls == "constant(4)" else t for t in ends]
    expected = math.prod(1 + 0.1 * value for value in theta)
    assert half(torch.ones(1, dtype=double)).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("times", [[0, 5], [-0.5, 4], [4, 4.25]], ids=repr)
def test_a_grid_outside_the_knots_is_refused(times):
    block = db.DynamicBlock(lambda: Scalar(0.0), "linear(5)", times=4)
    message = rf"spans \[{float(times[0])}, {float(times[1])}\] but the controls are known on \[0\.0, 4\.0\]"
    with pytest.raises(db.ConfigurationError, match=message):
        block.replaced(times=times)


@pieces
def test_controls_need_one_layer_each(kind):
    basis = kind(knots=(0, 1, 4))
    with pytest.raises(db.ConfigurationError, match=f"takes {basis.size} layers, got 7"):
        scalar_controls(basis, range(7))
