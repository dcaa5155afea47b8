"""Which controls a stage reads: decided by exact arithmetic, whatever the grids and knots round to."""

from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Alignment
from dynamicblocks.integrators import TABLEAUS

# Every fraction c of every method, as a rational number beside the float that the method hands over.
FRACTIONS = {c: Fraction(c).limit_denominator(12) for tableau in TABLEAUS for c in tableau.c}


def evenly(start, end, count):
    return [start + (end - start) * Fraction(n, count) for n in range(count + 1)]


def single(exact):
    """Rational numbers rounded to single precision."""
    return torch.tensor([float(point) for point in exact], dtype=torch.float32).tolist()


def doubled(exact):
    return [float(point) for point in exact]


def accumulated(exact):
    """The points as a running sum of steps, whose rounding errors add up."""
    points = [float(exact[0])]
    for before, after in pairwise(exact):
        points.append(points[-1] + float(after - before))
    return points


def place(knots, before, after, c):
    """The interval and the fraction of it at c of a step, limits from inside the step, in rational numbers."""
    time = before + c * (after - before)
    if c == 1:
        interval = max(k for k, knot in enumerate(knots) if knot < time)
    else:
        interval = max(k for k, knot in enumerate(knots[:-1]) if knot <= time)
    return interval, (time - knots[interval]) / (knots[interval + 1] - knots[interval])


# (knots, grid points), all rational.
LAYOUTS = {
    "7 steps on 7": (evenly(0, 1, 7), evenly(0, 1, 7)),
    "49 steps on 7": (evenly(0, 1, 7), evenly(0, 1, 49)),
    "21 steps on 3": (evenly(0, 1, 3), evenly(0, 1, 21)),
    "3 steps on 21": (evenly(0, 1, 21), evenly(0, 1, 3)),
    "tenths": (evenly(0, 1, 10), evenly(0, 1, 30)),
    "tenths by twos": (evenly(0, 1, 10), evenly(0, 1, 5)),
    "tenths by tens": (evenly(0, 1, 10), evenly(0, 1, 1)),
    "tenths away from zero": (evenly(Fraction(1, 10), Fraction(7, 10), 6), evenly(Fraction(1, 10), Fraction(7, 10), 3)),
    "thirds": (evenly(0, 1, 3), evenly(0, 1, 6)),
    "two controls a step": (evenly(0, 8, 8), evenly(0, 8, 4)),
    "three controls a step": (evenly(0, 1, 9), evenly(0, 1, 3)),
    "three controls on two steps": (evenly(0, 1, 3), evenly(0, 1, 2)),
    "nine controls on six steps": (evenly(0, 1, 9), evenly(0, 1, 6)),
    "part of the span": (evenly(0, 1, 10), evenly(Fraction(2, 10), Fraction(8, 10), 4)),
    "starts inside an interval": (evenly(0, 1, 5), evenly(Fraction(1, 10), Fraction(9, 10), 4)),
    "negative times": (evenly(-3, -2, 7), evenly(-3, -2, 49)),
    "long": (evenly(0, 70, 7), evenly(0, 70, 490)),
    "uneven": (
        [Fraction(n, 10) for n in (0, 1, 3, 4, 9)],
        [Fraction(n, 30) for n in (0, 2, 3, 9, 12, 20, 27)],
    ),
}


@pytest.mark.parametrize("written", [doubled, single, accumulated], ids=lambda write: write.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stages_stand_where_exact_arithmetic_says(layout, written):
    knots, points = LAYOUTS[layout]
    alignment = Alignment(db.Grid(written(points)), tuple(doubled(knots)))
    for step, (before, after) in enumerate(pairwise(points)):
        for fraction, c in FRACTIONS.items():
            interval, share = place(knots, before, after, c)
            location = alignment.locate(step, fraction)
            assert (step, c, location.interval) == (step, c, interval)
            assert location.fraction == pytest.approx(float(share), abs=2e-4 if written is single else 1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_knots_may_be_the_rounded_ones(layout):
    knots, points = LAYOUTS[layout]
    alignment = Alignment(db.Grid(doubled(points)), tuple(single(knots)))
    for step, (before, after) in enumerate(pairwise(points)):
        for fraction, c in FRACTIONS.items():
            assert alignment.locate(step, fraction).interval == place(knots, before, after, c)[0]


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 12.0), (0.1, 0.7), (-1 / 3, 2 / 3)], ids=repr)
@pytest.mark.parametrize("controls", [1, 2, 3, 6, 7, 10, 12])
def test_default_knots_of_uniform_grids(span, controls):
    for steps in range(1, 31):
        grid = db.uniform(*span, steps=steps)
        alignment = Alignment(grid, db.PiecewiseConstant(controls).over(grid).points)
        for step in range(steps):
            for fraction, c in FRACTIONS.items():
                passed = (step + c) * Fraction(controls, steps)  # intervals left behind
                expected = floor(passed) - (1 if c == 1 and passed == floor(passed) else 0)
                assert alignment.locate(step, fraction).interval == expected


@pytest.mark.parametrize(
    "times",
    [
        db.uniform(0, 1, steps=49),
        torch.linspace(0, 1, 50, dtype=torch.float32),
        torch.linspace(0, 1, 50, dtype=torch.float64),
        [n / 49 for n in range(50)],
        accumulated(evenly(0, 1, 49)),
    ],
    ids=["uniform", "float32", "float64", "quotients", "sums"],
)
@pytest.mark.parametrize("knots", [None, doubled(evenly(0, 1, 7)), single(evenly(0, 1, 7))], ids=["own", "f64", "f32"])
def test_a_block_calls_the_control_of_the_interval_that_each_step_crosses(times, knots):
    calls = []

    class Recorder(nn.Module):
        def __init__(self, index):
            super().__init__()
            self.index = index

        def forward(self, y):
            calls.append(self.index)
            return torch.zeros_like(y)

    indices = iter(range(7))
    basis = db.PiecewiseConstant(7) if knots is None else db.PiecewiseConstant(knots=tuple(knots))
    block = db.DynamicBlock(lambda: Recorder(next(indices)), basis, times, "rk4_classic")
    block(torch.zeros(1, dtype=torch.float32))
    assert calls == [step // 7 for step in range(49) for _ in range(4)]


@pytest.mark.parametrize("written", [doubled, single, accumulated], ids=lambda write: write.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_weights_read_one_control_at_a_knot_and_two_elsewhere(layout, written):
    knots, points = LAYOUTS[layout]
    basis = db.PiecewiseLinear(knots=tuple(doubled(knots)))
    alignment = Alignment(db.Grid(written(points)), basis.points)
    for step, (before, after) in enumerate(pairwise(points)):
        for fraction, c in FRACTIONS.items():
            time = before + c * (after - before)
            terms = basis.terms(*alignment.locate(step, fraction))
            if time in knots:
                assert terms == ((knots.index(time), 1.0),)
            else:
                left, right = terms
                assert right[0] == left[0] + 1
                assert knots[left[0]] < time < knots[right[0]]


@pytest.mark.parametrize("written", [doubled, single, accumulated], ids=lambda write: write.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_discontinuous_weights_are_limits_from_inside_the_step(layout, written):
    """At a knot one control is read: at the end of a step that of the interval crossed, else that of the next."""
    knots, points = LAYOUTS[layout]
    basis = db.DiscontinuousLinear(knots=tuple(doubled(knots)))
    alignment = Alignment(db.Grid(written(points)), basis.points)
    for step, (before, after) in enumerate(pairwise(points)):
        for fraction, c in FRACTIONS.items():
            interval, share = place(knots, before, after, c)
            terms = basis.terms(*alignment.locate(step, fraction))
            if share in (0, 1):
                assert terms == ((2 * interval + int(share), 1.0),)
            else:
                assert [index for index, _ in terms] == [2 * interval, 2 * interval + 1]


def test_ends_beyond_the_knots_by_rounding_are_the_ends():
    end = 0.1 + 0.2
    assert end > 0.3
    assert Alignment(db.Grid((0.0, end)), (0.0, 0.1, 0.2, 0.3)).locate(0, 1.0) == (2, 1.0)


def test_times_apart_by_more_than_rounding_are_different():
    with pytest.raises(db.ConfigurationError, match=r"spans \[0\.0, 1\.001\] .* known on \[0\.0, 1\.0\]"):
        Alignment(db.Grid((0.0, 1.001)), (0.0, 1.0))
    alignment = Alignment(db.Grid((0.0, 0.499, 1.0)), (0.0, 0.5, 1.0))
    assert [alignment.locate(step, c).interval for step in (0, 1) for c in (0.0, 1.0)] == [0, 0, 0, 1]


def test_steps_shorter_than_rounding_of_the_span_are_still_steps():
    alignment = Alignment(db.Grid((0.0, 0.5 - 1e-8, 0.5 + 1e-8, 1.0)), (0.0, 0.5, 1.0))
    found = [alignment.locate(step, c).interval for step in range(3) for c in (0.0, 1.0)]
    assert found == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("controls", "times", "integrator", "unused"),
    [
        ("linear(5)", 4, "euler", {4}),
        ("linear(5)", 4, "midpoint", set()),
        ("linear(5)", 4, "heun2", set()),
        ("linear(5)", 4, "rk4_classic", set()),
        ("linear(5)", "uniform(0, 4, steps=8)", "euler", set()),
        ("linear(5)", "uniform(0, 4, steps=2)", "euler", {1, 3, 4}),
        ("constant(4)", 4, "euler", set()),
        ("constant(4)", "uniform(0, 4, steps=2)", "euler", {1, 3}),
        ("constant(4)", "uniform(0, 4, steps=2)", "heun2", set()),
        ("constant(4)", "uniform(0, 4, steps=2)", "midpoint", set()),
        ("constant(6)", "uniform(0, 6, steps=2)", "euler", {1, 2, 4, 5}),
        ("constant(6)", "uniform(0, 6, steps=2)", "midpoint", {2, 5}),
        ("constant(6)", "uniform(0, 6, steps=2)", "ralston2", {1, 4}),
        ("constant(6)", "uniform(0, 6, steps=2)", "rk4", set()),
        ("constant(3)", "uniform(0, 3, steps=2)", "euler", {2}),
        ("discontinuous_linear(6)", 3, "euler", {1, 3, 5}),
        ("discontinuous_linear(6)", 3, "heun2", set()),
        ("discontinuous_linear(6)", "uniform(0, 3, steps=2)", "euler", {1, 4, 5}),
        ("bspline(6)", 3, "euler", {5}),
        ("bspline(6)", 3, "rk4_classic", set()),
        ("bspline(6)", "uniform(0, 3, steps=1)", "euler", {1, 2, 3, 4, 5}),
        ("legendre(3)", 3, "euler", set()),
        ("chebyshev(3)", 1, "heun2", {1}),
        ("chebyshev(3)", 1, "midpoint", {2}),
    ],
)
def test_unused_controls_are_those_that_no_stage_reads(controls, times, integrator, unused):
    assert db.DynamicBlock("symmetric(2)", controls, times, integrator).unused_controls() == unused


@pytest.mark.parametrize(("unit", "unused"), [("a", set()), ("b", set()), ("e", {4})])
def test_projections_read_the_control_at_the_end_of_a_step(unit, unused):
    assert db.DynamicBlock(f"residual_unit(2, {unit!r})", "linear(5)", 4).unused_controls() == unused


def test_unused_controls_get_no_gradient_and_used_ones_do():
    block = db.DynamicBlock("symmetric(2, norm='none')", "constant(6)", "uniform(0, 6, steps=2)", "midpoint")
    block(torch.randn(1, 2, 4, 4)).sum().backward()
    without = {index for index, layer in enumerate(block.controls.layers) if layer.weight.grad is None}
    assert without == {2, 5} == block.unused_controls()


def test_a_part_of_the_knots_leaves_the_rest_unused():
    block = db.DynamicBlock("symmetric(2)", "constant(4)").replaced(times=[1, 2.5], integrator="rk4_classic")
    assert block.unused_controls() == {0, 3}
