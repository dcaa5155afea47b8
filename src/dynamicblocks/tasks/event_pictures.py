"""Pictures of events: the rate that was learnt, the true one, and when they happened."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dynamicblocks.data.series.events import EventSet
from dynamicblocks.training.storage import write_picture
from dynamicblocks.visible import in_a_picture

LEARNT, TRUE, EVENTS = "#d1495b", "#00798c", "#6c757d"
# Bins of a histogram, and sequences of a picture.
BINS, LINES = 40, 30


def draw_rates(events: EventSet, line: Tensor, rates: Tensor, true: Tensor | None, path: Path) -> None:
    """A panel for each rate: with its sequence's events below or, where all have one rate, with how many there were.

    Args:
        events: the sequences.
        line: (points,), times.
        rates: (rows, points), learnt: of each sequence, or of all in one row.
        true: the same, where it is known.
        path: of the PNG file.
    """
    rows = len(rates)
    figure = Figure(figsize=(8, 2.4 * rows + 0.9), layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        if rows == 1 and not events.columns:
            _counted(axes, events)
        else:
            mine = events.times[row, : events.lengths[row]]
            axes.plot(mine.numpy(), 0 * mine.numpy(), "|", color=EVENTS, ms=14, mew=1, label="events", clip_on=False)
            numbers = ", ".join(
                f"{name} {value:.3g}" for name, value in zip(events.columns, events.initial[row].tolist(), strict=True)
            )
            axes.set_title(in_a_picture(f"test sequence {events.ids[row]}: {numbers}"), fontsize=9)
        if true is not None:
            axes.plot(line.numpy(), true[row].numpy(), color=TRUE, lw=3, alpha=0.5, label="true rate")
        axes.plot(line.numpy(), rates[row].numpy(), color=LEARNT, lw=1.5, label="learnt rate")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("events per unit of time", fontsize=8)
        _plain(axes)
    axes.set_xlabel("time", fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    write_picture(path, figure.savefig, dpi=110)


def _counted(axes: Axes, events: EventSet) -> None:
    """How many events of all sequences there were, as a rate; and those of the first."""
    times = events.times[events.there].numpy()
    width = (events.t1 - events.t0) / BINS
    weights = 0 * times + 1 / (len(events) * width)
    axes.hist(
        times,
        bins=BINS,
        range=(events.t0, events.t1),
        weights=weights,
        color=EVENTS,
        alpha=0.25,
        label="events, counted",
    )
    mine = events.times[0, : events.lengths[0]].numpy()
    axes.plot(mine, 0 * mine, "|", color=EVENTS, ms=14, mew=1, label="events of one sequence", clip_on=False)
    axes.set_title(f"{len(events):,} test sequences with {events.events:,} events", fontsize=9)


def draw_sequences(times: Tensor, lengths: Tensor, path: Path) -> None:
    """New sequences: a line for each, a mark for each event."""
    shown = min(len(times), LINES)
    figure = Figure(figsize=(8, 0.18 * shown + 1.2), layout="constrained")
    axes = figure.subplots()
    for row in range(shown):
        mine = times[row, : lengths[row]].numpy()
        axes.plot(mine, 0 * mine + row, "|", color=LEARNT, ms=6, mew=1)
    axes.set_ylim(shown - 0.5, -0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("time", fontsize=8)
    axes.set_ylabel("sequence", fontsize=8)
    _plain(axes)
    write_picture(path, figure.savefig, dpi=110)


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
