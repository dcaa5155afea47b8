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
    Constant,
    Linear,
    Scalar,
    basis_functions,
    both_bases,
    double,
    knot_lists,
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


@both_bases
@settings(deadline=None)
@given(knot_lists, st.floats(0, 1))
def test_bases_are_nonnegative_partitions_of_unity(kind, knots, fraction):
    basis = kind(knots=knots)
    for interval in range(len(knots) - 1):
        terms = basis.terms(interval, fraction)
        assert math.fsum(weight for _, weight in terms) == pytest.approx(1.0, rel=1e-15)
        assert all(weight >= 0 for _, weight in terms)
        assert all(0 <= index < basis.size for index, _ in terms)


@both_bases
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


def test_controls_stand_at_the_nodes():
    assert Constant(knots=(0, 1, 4)).nodes == (0.5, 2.5)
    assert Linear(knots=(0, 1, 4)).nodes == (0.0, 1.0, 4.0)


@pytest.mark.parametrize(("kind", "least"), [(Constant, 1), (Linear, 2)])
def test_bases_need_enough_controls(kind, least):
    assert kind(least).over(db.Grid((0, 1))).knots == (0.0, 1.0)
    for size in (least - 1, 2.5, True):
        message = f"controls of {kind.__name__} must be a whole number of at least {least}, got {size!r}"
        with pytest.raises(db.ConfigurationError, match=re.escape(message)):
            kind(size)


@pytest.mark.parametrize(("kind", "made"), [(Constant, 2), (Linear, 3)])
def test_size_and_knots_must_agree(kind, made):
    assert kind(made, (0, 1, 4)) == kind(knots=(0.0, 1.0, 4.0))
    with pytest.raises(db.ConfigurationError, match=f"3 knots make {made} controls, but 7 were asked for"):
        kind(7, (0, 1, 4))


@both_bases
def test_knots_must_increase(kind):
    with pytest.raises(db.ConfigurationError, match=r"knots must increase strictly, but point 1 is 2\.0"):
        kind(knots=(0, 2, 2))


@both_bases
def test_a_basis_without_knots_has_no_points(kind):
    with pytest.raises(db.ConfigurationError, match="has no knots yet"):
        kind(5).refine()


@pytest.mark.parametrize(
    ("basis", "knots"),
    [
        (Constant(), (0, 1, 4, 6)),
        (Linear(), (0, 1, 4, 6)),
        (Constant(3), (0, 2, 4, 6)),
        (Linear(3), (0, 3, 6)),
        (Constant(knots=(0, 5, 9)), (0, 5, 9)),
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


@both_bases
def test_controls_need_one_layer_each(kind):
    basis = kind(knots=(0, 1, 4))
    with pytest.raises(db.ConfigurationError, match=f"takes {basis.size} layers, got 5"):
        scalar_controls(basis, range(5))
