"""Time grids: shorthands, constructors, refinement, and what each refuses."""

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamicblocks as db
from dynamicblocks.times import as_grid

starts = st.floats(-1e3, 1e3)
lengths = st.floats(1e-2, 1e3)
counts = st.integers(1, 60)
ratios = st.floats(1e-3, 1e3)


def test_grid_describes_its_steps():
    grid = db.Grid((-1, 0.5, 3))
    assert grid.points == (-1.0, 0.5, 3.0)
    assert all(type(point) is float for point in grid.points)
    assert grid.steps == 2
    assert grid.sizes == (1.5, 2.5)
    assert grid.span == (-1.0, 3.0)
    assert len(grid) == 3
    assert list(grid) == [-1.0, 0.5, 3.0]


def test_grids_are_values():
    assert db.Grid((0, 1)) == db.Grid((0.0, 1.0))
    assert hash(db.Grid((0, 1))) == hash(db.Grid((0.0, 1.0)))
    with pytest.raises(AttributeError, match="points"):
        db.Grid((0, 1)).points = (0.0, 2.0)


@settings(deadline=None)
@given(starts, lengths, counts)
def test_uniform_hits_both_ends_with_equal_steps(t0, length, steps):
    t1 = t0 + length
    grid = db.uniform(t0, t1, steps=steps)
    assert grid.steps == steps
    assert grid.span == (t0, t1)
    assert all(size > 0 for size in grid.sizes)
    rounding = 8 * math.ulp(max(abs(t0), abs(t1)))
    assert grid.sizes == pytest.approx([(t1 - t0) / steps] * steps, rel=0, abs=rounding)


@settings(deadline=None)
@given(starts, lengths, counts, ratios)
def test_graded_hits_both_ends_with_growing_steps(t0, length, steps, ratio):
    t1 = t0 + length
    grid = db.graded(t0, t1, steps=steps, ratio=ratio)
    assert grid.steps == steps
    assert grid.span == (t0, t1)
    assert all(size > 0 for size in grid.sizes)


@pytest.mark.parametrize("ratio", [0.125, 1.0, 7.3])
def test_graded_steps_grow_by_one_factor_up_to_the_ratio(ratio):
    sizes = db.graded(-1, 3, steps=6, ratio=ratio).sizes
    assert sizes[-1] / sizes[0] == pytest.approx(ratio, rel=1e-12)
    changes_before = [after / before for before, after in pairwise(sizes)]
    assert changes_before == pytest.approx([ratio ** (1 / 5)] * 5, rel=1e-12)


def test_graded_with_ratio_one_is_uniform():
    assert db.graded(0, 3, steps=7, ratio=1).points == pytest.approx(db.uniform(0, 3, steps=7).points, rel=1e-15)


def test_graded_with_one_step_is_one_step():
    assert db.graded(2, 5, steps=1, ratio=9).points == (2.0, 5.0)


@settings(deadline=None)
@given(starts, st.lists(st.floats(1e-2, 10), min_size=1, max_size=8), st.integers(1, 5))
def test_refine_keeps_the_points_and_splits_every_step_evenly(t0, sizes, factor):
    grid = db.Grid([t0 + math.fsum(sizes[:n]) for n in range(len(sizes) + 1)])
    fine = grid.refine(factor)
    assert fine.points[::factor] == grid.points
    rounding = 8 * math.ulp(max(map(abs, grid.points)))
    expected = [size / factor for size in grid.sizes for _ in range(factor)]
    assert fine.sizes == pytest.approx(expected, rel=0, abs=rounding)


def test_refine_twice_is_refine_by_the_product():
    grid = db.Grid((0, 1, 4))
    assert grid.refine(2).refine(2) == grid.refine(4)


@pytest.mark.parametrize(
    "times",
    [
        3,
        "uniform(0, 3, steps=3)",
        "graded(0, 3, steps=3, ratio=1)",
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64),
        [0, 1, 2, 3],
        (0.0, 1.0, 2.0, 3.0),
        db.Grid((0, 1, 2, 3)),
    ],
    ids=repr,
)
def test_shorthands_of_one_grid(times):
    assert as_grid(times).points == (0.0, 1.0, 2.0, 3.0)


def test_a_grid_is_its_own_shorthand():
    grid = db.uniform(0, 1, steps=2)
    assert as_grid(grid) is grid


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((0, 2, 2, 3), "point 1 is 2.0 and point 2 is 2.0"),
        ((0, 3, 1), "point 1 is 3.0 and point 2 is 1.0"),
        ((0, math.nan, 1), "point 1 is nan"),
        ((0, 1, math.inf), "point 2 is inf"),
        ((-math.inf, 0), "point 0 is -inf"),
        ((0.5,), "at least two points, got 1"),
        ((), "at least two points, got 0"),
        (("early", "late"), "'early'"),
        (((0, 1), (2, 3)), "((0, 1), (2, 3))"),
    ],
)
@pytest.mark.parametrize("make", [db.Grid, as_grid])
def test_bad_points_are_named(make, points, message):
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        make(points)


@pytest.mark.parametrize("make", [db.uniform, lambda *ends, steps: db.graded(*ends, steps=steps, ratio=2)])
@pytest.mark.parametrize(
    ("t0", "t1", "steps", "message"),
    [
        (0, 1, 0, "steps must be a whole number of at least 1, got 0"),
        (0, 1, -2, "got -2"),
        (0, 1, 2.0, "got 2.0"),
        (0, 1, True, "got True"),
        (1, 1, 4, "point 0 is 1.0 and point 1 is 1.0"),
        (2, 1, 4, "point 0 is 2.0 and point 1 is 1.0"),
        (math.nan, 1, 4, "point 0 is nan"),
        (0, math.inf, 4, "point 1 is inf"),
        ("dawn", 1, 4, "'dawn'"),
    ],
)
def test_bad_spans_and_counts_are_named(make, t0, t1, steps, message):
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        make(t0, t1, steps=steps)


@pytest.mark.parametrize("ratio", [0, -2.5, math.nan, math.inf, "steep", True], ids=repr)
def test_bad_ratios_are_named(ratio):
    with pytest.raises(db.ConfigurationError, match=f"ratio .* got {re.escape(repr(ratio))}"):
        db.graded(0, 1, steps=3, ratio=ratio)


def test_more_steps_than_numbers_between_the_ends_is_an_error():
    with pytest.raises(db.ConfigurationError, match=r"increase strictly, but point 0 is 1\.0"):
        db.uniform(1.0, 1.0 + 4 * math.ulp(1.0), steps=100)


@pytest.mark.parametrize("factor", [0, -1, 2.0, True], ids=repr)
def test_bad_refinement_factors_are_named(factor):
    with pytest.raises(db.ConfigurationError, match=f"refinement factor .* got {factor!r}"):
        db.Grid((0, 1)).refine(factor)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (0, "steps must be a whole number of at least 1, got 0"),
        (-3, "got -3"),
        (True, "got True"),
        (2.5, "got 2.5"),
        (None, "got None"),
        (torch.zeros(2, 3), "shape (2, 3)"),
        (torch.tensor(4.0), "shape ()"),
        (torch.tensor([0.0, math.nan]), "point 1 is nan"),
        ("unifrom(0, 1, steps=2)", "unknown time grid 'unifrom'; did you mean 'uniform'?"),
        ("uniform(0, 1)", "'uniform(0, 1)': missing a required argument: 'steps'"),
        ("uniform(0, 1, steps=2", "cannot read 'uniform(0, 1, steps=2'"),
        ("7", "cannot read '7'"),
    ],
)
def test_bad_shorthands_are_named(times, message):
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        as_grid(times)
