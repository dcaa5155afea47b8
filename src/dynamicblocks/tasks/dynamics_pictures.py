"""Pictures of trajectories: observed, fitted and beyond, over time and as phases."""

from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from dynamicblocks.tasks.dynamics_facts import TrajectoryFacts
from dynamicblocks.tasks.dynamics_net import DynamicsNet, TrajectoryBatch
from dynamicblocks.training.storage import write_picture
from dynamicblocks.visible import in_a_picture

OBSERVED, FITTED, BEYOND = "#6c757d", "#00798c", "#d1495b"
# Trajectories and features of a picture, at most; points of a line.
ROWS, COLUMNS, POINTS = 3, 3, 400
# Where nothing was held back, lines go on for this share of the time.
ON = 0.25


@dataclass(frozen=True)
class Trajectory:
    """One trajectory in the units of the data.

    Args:
        name: of the series.
        times, values: (length,) and (length, features), what was observed; not a number where nothing was.
        line_times, line: (points,) and (points, features), what the network says.
        end: the last time that was trained on, or would have been.
    """

    name: str
    times: Tensor
    values: Tensor
    line_times: Tensor
    line: Tensor
    end: float


@dataclass(frozen=True)
class Shown:
    """What is drawn.

    Args:
        features: their names.
        trajectories: some of the test split.
        constants: of the equation.
    """

    features: tuple[str, ...]
    trajectories: list[Trajectory]
    constants: dict[str, float]


def shown_of(net: nn.Module, batch: TrajectoryBatch, known: TrajectoryFacts, names: tuple[str, ...]) -> Shown:
    """The first trajectories of a batch, with lines through and beyond what was trained on."""
    assert isinstance(net, DynamicsNet)
    some = batch.select(slice(ROWS))
    begin, last = some.times[:, :1], some.times[:, -1:]
    seen = torch.where(some.known.any(-1), some.times, some.times[:, :1]).max(dim=1, keepdim=True).values
    last = torch.where(seen < last, last, last + ON * (last - begin))
    times = begin + (last - begin) * torch.linspace(0, 1, POINTS, dtype=begin.dtype, device=begin.device)
    lines = net.states(net.begins(some)[:, 0], times)
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (known.mean, known.std))

    def in_units(values: Tensor) -> Tensor:
        return values.cpu().double() * std + mean

    found = []
    for row, name in zip(range(len(some.times)), names, strict=False):
        values = in_units(some.values[row]).where(some.wanted[row].cpu(), torch.nan)
        found.append(
            Trajectory(
                name,
                some.times[row].cpu() + known.origin,
                values,
                times[row].cpu() + known.origin,
                in_units(lines[row]),
                float(seen[row]) + known.origin,
            )
        )
    return Shown(known.features, found, {name: float(value) for name, value in net.constants.items()})


def draw_trajectories(shown: Shown, folder: Path) -> list[Path]:
    """Over time, a row for each trajectory and a column for each feature; and the first two features as phases."""
    columns, rows = min(COLUMNS, len(shown.features)), len(shown.trajectories)
    height = 2.6 * rows + 0.6
    figure = Figure(figsize=(4.6 * columns, height))
    figure.subplots_adjust(
        left=0.6 / (4.6 * columns) + 0.02,
        right=0.98,
        bottom=0.5 / height,
        top=1 - 0.75 / height,
        hspace=0.5,
        wspace=0.25,
    )
    drawn = figure.subplots(rows, columns, squeeze=False)
    for axes, one in zip(drawn, shown.trajectories, strict=True):
        for place, each in enumerate(axes):
            _over_time(each, one, place)
            each.set_title(in_a_picture(f"{shown.features[place]}, trajectory {one.name}"), fontsize=9)
    figure.legend(*drawn[0, 0].get_legend_handles_labels(), loc="upper right", ncols=3, frameon=False, fontsize=8)
    _say_constants(figure, shown)
    paths = [folder / "trajectories.png"]
    write_picture(paths[0], figure.savefig, dpi=130)
    if len(shown.features) > 1:
        paths.append(folder / "phases.png")
        figure = Figure(figsize=(5.2, 5.0), layout="constrained")
        _phases(figure.subplots(), shown)
        write_picture(paths[1], figure.savefig, dpi=130)
    return paths


def _say_constants(figure: Figure, shown: Shown) -> None:
    if shown.constants:
        said = ", ".join(f"{name} {value:.4g}" for name, value in shown.constants.items())
        figure.text(0.01, 0.985, in_a_picture(said), ha="left", va="top", fontsize=9)


def _over_time(axes: Axes, one: Trajectory, place: int) -> None:
    axes.plot(one.times.numpy(), one.values[:, place].numpy(), ".", color=OBSERVED, ms=4, alpha=0.6, label="observed")
    _line(axes, one, one.line_times, one.line[:, place])
    axes.axvline(one.end, color="black", lw=0.6, ls=":")
    axes.set_xlabel("time", fontsize=8)
    _plain(axes)


def _phases(axes: Axes, shown: Shown) -> None:
    for number, one in enumerate(shown.trajectories):
        values = one.values.numpy()
        axes.plot(
            values[:, 0], values[:, 1], ".", color=OBSERVED, ms=4, alpha=0.5, label=None if number else "observed"
        )
        _line(axes, one, one.line[:, 0], one.line[:, 1], said=not number)
    first, second = shown.features[:2]
    axes.set_xlabel(in_a_picture(first), fontsize=9)
    axes.set_ylabel(in_a_picture(second), fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    _plain(axes)


def _line(axes: Axes, one: Trajectory, x: Tensor, y: Tensor, *, said: bool = True) -> None:
    """What the network says: one colour where it was trained, another beyond."""
    within = int((one.line_times <= one.end).sum())
    axes.plot(x[:within].numpy(), y[:within].numpy(), color=FITTED, lw=1.6, label="fitted" if said else None)
    beyond = slice(max(within - 1, 0), None)
    axes.plot(x[beyond].numpy(), y[beyond].numpy(), color=BEYOND, lw=1.6, label="extrapolated" if said else None)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
