"""Pictures of series: what was seen, what came, what a model says with the spread of its samples; and new series."""

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamicblocks.data.series import SeriesSet
from dynamicblocks.tasks.prediction import SeriesPrediction
from dynamicblocks.training.storage import write_picture
from dynamicblocks.visible import in_a_picture

SEEN, WANTED, TOLD = "#00798c", "#6c757d", "#d1495b"
# Features of a picture, lines of samples, and of new series.
FEATURES, LINES, NEW = 3, 8, 12


@dataclass(frozen=True)
class Shown:
    """One series in the units of the data.

    Args:
        series: it alone.
        times: (points,) of the lines.
        draws: (draws, points, features), what a model says there.
    """

    series: SeriesSet
    times: Tensor
    draws: Tensor


def draw_series(shown: list[Shown], path: Path) -> None:
    """A row for each series: its features over time and, of two features, one over the other."""
    names = shown[0].series.features
    features = min(len(names), FEATURES)
    columns = features + (len(names) == 2)
    figure = Figure(figsize=(4.2 * columns, 2.7 * len(shown) + 0.5), layout="constrained")
    drawn = figure.subplots(len(shown), columns, squeeze=False)
    for axes, each in zip(drawn, shown, strict=True):
        for feature in range(features):
            _over_time(axes[feature], each, feature)
        if len(names) == 2:
            _phase(axes[-1], each)
        axes[0].set_title(f"test series {in_a_picture(each.series.ids[0])}", fontsize=9)
    handles, labels = drawn[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    write_picture(path, figure.savefig, dpi=110)


def _points(each: Shown, feature: int) -> tuple[Tensor, Tensor]:
    """Which times were seen, and which are only wanted."""
    series = each.series
    observed = series.observed[0, :, feature]
    seen = observed & series.seen[0]
    return seen, observed & series.wanted[0] & ~seen


def _over_time(axes: Axes, each: Shown, feature: int) -> None:
    series, draws = each.series, each.draws[..., feature]
    mean, std = draws.mean(0), draws.std(0, correction=0)
    axes.fill_between(
        each.times.numpy(), (mean - 2 * std).numpy(), (mean + 2 * std).numpy(), color=TOLD, alpha=0.2, lw=0,
        label="two deviations of the samples",
    )  # fmt: skip
    axes.plot(each.times.numpy(), draws[:LINES].T.numpy(), color=TOLD, lw=0.4, alpha=0.5)
    axes.plot(each.times.numpy(), mean.numpy(), color=TOLD, lw=1.5, label="mean of the samples")
    seen, wanted = _points(each, feature)
    for mask, colour, label in ((wanted, WANTED, "not seen"), (seen, SEEN, "seen")):
        axes.plot(
            series.times[0][mask].numpy(), series.values[0, :, feature][mask].numpy(), ".", ms=4, color=colour,
            label=label,
        )  # fmt: skip
    _plain(axes, "time", series.features[feature])


def _phase(axes: Axes, each: Shown) -> None:
    series = each.series
    for draw in each.draws[:LINES]:
        axes.plot(draw[:, 0].numpy(), draw[:, 1].numpy(), color=TOLD, lw=0.4, alpha=0.5)
    mean = each.draws.mean(0)
    axes.plot(mean[:, 0].numpy(), mean[:, 1].numpy(), color=TOLD, lw=1.5)
    masks = [torch.logical_and(*both) for both in zip(_points(each, 0), _points(each, 1), strict=True)]
    for mask, colour in zip(reversed(masks), (WANTED, SEEN), strict=True):
        axes.plot(series.values[0, :, 0][mask].numpy(), series.values[0, :, 1][mask].numpy(), ".", ms=4, color=colour)
    _plain(axes, *series.features)


def draw_samples(samples: SeriesPrediction, path: Path) -> None:
    """New series: each feature over time."""
    features = min(len(samples.features), FEATURES)
    figure = Figure(figsize=(4.2 * features, 3.0), layout="constrained")
    for feature, axes in enumerate(figure.subplots(1, features, squeeze=False)[0]):
        for times, values in zip(samples.times[:NEW], samples.values[:NEW], strict=True):
            axes.plot(times.numpy(), values[:, feature].numpy(), lw=1)
        _plain(axes, "time", samples.features[feature])
    write_picture(path, figure.savefig, dpi=110)


def _plain(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(in_a_picture(x), fontsize=8)
    axes.set_ylabel(in_a_picture(y), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
