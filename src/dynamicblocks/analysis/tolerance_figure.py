"""The picture of a network at several tolerances."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from dynamicblocks.analysis.figure import COLOURS
from dynamicblocks.tasks.classify import ACCURACY
from dynamicblocks.training.evaluation import Score
from dynamicblocks.training.storage import write_picture
from dynamicblocks.training.task import Figure
from dynamicblocks.training.tolerances import AtTolerance
from dynamicblocks.visible import in_a_picture


@dataclass(frozen=True)
class Swept:
    """What is drawn of one network: its title and what it reached at each tolerance."""

    title: str
    found: Sequence[AtTolerance]


def draw_tolerances(lines: Sequence[Swept], path: Path, *, subject: str, figure: Figure = ACCURACY) -> None:
    """A figure, evaluations of a pass and time over the tolerance, which gets finer to the right; a line a network.

    Of an accuracy, what it lacks is drawn: the error. The tolerance of the training has a ring. Where there was no
    solution, or the figure is not finite, there is no point.

    Args:
        lines: the networks.
        path: of the PNG file.
        subject: on what it was measured, for instance ``test images of mnist``.
        figure: which of the task's.
    """
    canvas = Canvas(figsize=(11, 3.6), layout="constrained")
    panels = canvas.subplots(1, 3)
    drawn: tuple[tuple[str, Callable[[AtTolerance, Score], float]], ...] = (
        (f"{_name(figure)}, {subject}", lambda _, score: _value(figure, score)),
        ("evaluations of layer functions in a pass", lambda each, _: each.evaluations),
        ("milliseconds a sample", lambda _, score: 1e3 / score.samples_per_second),
    )
    for axes, (label, value) in zip(panels, drawn, strict=True):
        for line, colour in zip(lines, COLOURS, strict=False):
            _line(axes, line, colour, value)
        axes.set_xscale("log")
        axes.set_xlabel("tolerance, relative and absolute")
        axes.set_ylabel(in_a_picture(label))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        values = [number for line in axes.lines for number in line.get_ydata()]
        if values and min(values) >= 0:
            axes.set_ylim(0, 1.08 * max(values) or 1)
        # The finest is the dearest, and stands where the most steps do.
        axes.invert_xaxis()
    if panels[0].lines:
        panels[0].legend(frameon=False, fontsize=9, loc="best")
    write_picture(path, canvas.savefig, dpi=150)


def _name(figure: Figure) -> str:
    return "error (%)" if figure == ACCURACY else f"{figure.heading}{' (%)' if figure.percent else ''}"


def _value(figure: Figure, score: Score) -> float:
    value = score[figure.name]
    return (1 - value if figure == ACCURACY else value) * (100 if figure.percent else 1)


def _line(axes: Axes, line: Swept, colour: str, value: Callable[[AtTolerance, Score], float]) -> None:
    shown = [(each, value(each, each.score)) for each in line.found if each.score is not None]
    shown = [(each, number) for each, number in shown if math.isfinite(number)]
    if not shown:
        return
    axes.plot(
        [each.tolerance for each, _ in shown],
        [number for _, number in shown],
        "o-",
        color=colour,
        lw=1.8,
        ms=5,
        label=in_a_picture(line.title),
    )
    for each, number in shown:
        if each.trained:
            axes.plot(each.tolerance, number, "o", ms=12, mfc="none", mec=colour, mew=1.8)
