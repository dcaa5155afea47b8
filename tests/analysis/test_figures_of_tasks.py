"""Convergence pictures and compression by any figure: shares and numbers, better the higher or the lower."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import Panel, compress, draw_manifestations, figure
from dynamicblocks.cli.compress import Tolerance
from dynamicblocks.training import Figure, Manifestation, Score

ERROR = Figure("relative_error", ".2%")
SQUARE = Figure("mean_square", ".3e")
IOU = Figure("mean_iou", ".2%", higher=True, title="mean IoU")


@pytest.fixture
def axes_of(monkeypatch, tmp_path):
    """Draws a panel with these values of a figure and gives its axes."""

    def drawn(shown, values):
        found = [
            Manifestation("euler", factor, 4 * factor, Score({"loss": 1.0, shown.name: value}, 10, 1.0))
            for factor, value in enumerate(values, start=1)
        ]
        canvases = []
        save = figure.Canvas.savefig
        monkeypatch.setattr(
            figure.Canvas, "savefig", lambda self, *a, **k: (canvases.append(self), save(self, *a, **k))
        )
        path = tmp_path / "picture.png"
        draw_manifestations([Panel("net", "euler", found)], path, subject="test fields", figure=shown)
        assert path.stat().st_size > 0
        return canvases[0].axes[0]

    return drawn


@pytest.mark.parametrize(
    ("shown", "values", "label", "scale", "limits"),
    [
        (IOU, (0.5, 0.8), "mean IoU (%), test fields", "linear", (0, 103)),
        (IOU, (0.81, 0.9), "mean IoU (%), test fields", "linear", (80, 100)),
        (ERROR, (0.02, 0.04), "relative error (%), test fields", "linear", (0, 4.2)),
        (ERROR, (0.02, 0.9), "relative error (%), test fields", "log", None),
        (SQUARE, (1e-6, 2e-3), "mean square, test fields", "log", None),
        (SQUARE, (0.0, 2.0), "mean square, test fields", "linear", (0, 2.1)),
        (Figure("loss"), (-1.0, 200.0), "loss, test fields", "linear", None),
    ],
)
def test_the_axis_is_that_of_the_figure(shown, values, label, scale, limits, axes_of):
    axes = axes_of(shown, values)
    assert axes.get_ylabel() == label
    assert axes.get_yscale() == scale
    assert limits is None or axes.get_ylim() == pytest.approx(limits)
    factor = 100 if shown.percent else 1
    assert list(axes.lines[0].get_ydata()) == pytest.approx([factor * value for value in values])


def test_values_that_are_not_finite_are_left_out(axes_of):
    axes = axes_of(SQUARE, (1.0, math.inf, math.nan, 2.0))
    assert list(axes.lines[0].get_xdata()) == [4, 16]
    assert not axes_of(SQUARE, (math.nan,)).lines


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), db.DynamicBlock(nn.Linear(4, 4), 2, integrator="midpoint"), nn.Linear(4, 1))


@pytest.mark.parametrize(("after", "kept"), [(0.1015, True), (0.103, False), (math.nan, False), (math.inf, False)])
def test_compression_keeps_an_error_low(after, kept):
    """It may grow by 0.002; of an unstable discretisation it is no number at all."""
    net = small_net()

    def score(other):
        return Score({"loss": 1.0, "relative_error": 0.1 if other[1].evaluations == 4 else after}, 100, 1.0)

    found = compress(net, [score], [torch.randn(3, 2)], tolerance=0.002, figure=ERROR)
    assert bool(found.chosen) == kept
    assert (found.net[1].evaluations < 4) == kept


@pytest.mark.parametrize(
    ("text", "shown", "before", "allowed"),
    [
        ("0.2%", ERROR, 0.015, 0.002),
        ("0.002", ERROR, 0.015, 0.002),
        ("0.2%", IOU, 0.5, 0.002),
        ("0.2%", SQUARE, 1e-4, 2e-7),
        ("0.2%", Figure("loss"), -2.0, 0.004),
        ("1e-5", SQUARE, 1e-4, 1e-5),
        ("20", SQUARE, 1e-4, 20.0),
    ],
)
def test_a_tolerance_is_in_points_or_in_the_figures_unit_or_a_share(text, shown, before, allowed):
    assert Tolerance.read(text, shown).of(lambda: before) == pytest.approx(allowed)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("2", ERROR), ("-1", SQUARE), ("nan", SQUARE), ("inf", SQUARE), ("much", SQUARE), ("200%", SQUARE)],
)
def test_wrong_tolerances(text, shown):
    with pytest.raises(db.ConfigurationError, match="a tolerance"):
        Tolerance.read(text, shown)
