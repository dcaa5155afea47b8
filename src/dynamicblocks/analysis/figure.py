"""The picture of a convergence test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from dynamicblocks.tasks.classify import ACCURACY
from dynamicblocks.training.manifestations import Manifestation
from dynamicblocks.training.storage import write_picture
from dynamicblocks.training.task import Figure
from dynamicblocks.visible import in_a_picture

COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#7a5195", "#4f772d", "#bc6c25", "#6c757d", "#003d5b")


@dataclass(frozen=True)
class Panel:
    """What is drawn of one network.

    Args:
        title: above the panel.
        trained_with: the integrator of the training, which is marked.
        found: the network's manifestations.
    """

    title: str
    trained_with: str
    found: Sequence[Manifestation]


def draw_manifestations(panels: Sequence[Panel], path: Path, *, subject: str, figure: Figure = ACCURACY) -> None:
    """A figure over the number of evaluations, one panel a network and one line an integrator.

    Shares are drawn in per cent; what is better the lower it is, on a logarithmic axis where it spans a decade. Values
    that are not finite, of unstable discretisations, are left out.

    Args:
        panels: the networks, from left to right.
        path: of the PNG file.
        subject: on what it was measured, for instance ``test images of cifar10``.
        figure: which of the task's.
    """
    canvas = Canvas(figsize=(4.2 * len(panels) + 1, 3.9), layout="constrained")
    drawn = canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    integrators = list(dict.fromkeys(each.integrator for panel in panels for each in panel.found))
    for axes, panel in zip(drawn, panels, strict=True):
        for place, (integrator, colour) in enumerate(zip(integrators, COLOURS, strict=False)):
            mine = [each for each in panel.found if each.integrator == integrator]
            # Lines that coincide stay visible, the wider one below.
            width = 1.5 + 0.7 * (len(integrators) - 1 - place)
            _line(axes, mine, figure, colour, width, marked=integrator == panel.trained_with)
        axes.set_title(in_a_picture(panel.title), fontsize=11)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("evaluations of layer functions")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _scale(drawn[0], [_drawn(each, figure) for panel in panels for each in panel.found], figure)
    drawn[0].set_ylabel(in_a_picture(f"{figure.heading}{' (%)' if figure.percent else ''}, {subject}"))
    if drawn[0].lines:
        drawn[0].legend(title="evaluated with", frameon=False, loc="best")
    write_picture(path, canvas.savefig, dpi=150)


def _scale(axes: Axes, values: Sequence[float], figure: Figure) -> None:
    """The vertical axis, which all panels share."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    lowest, highest = min(finite), max(finite)
    if figure.higher and figure.percent:
        # Small differences at high accuracies would not be seen above zero; the axis says where it begins.
        bottom = 10 * math.floor(lowest / 10) if lowest > 50 else 0
        axes.set_ylim(bottom, 100 if bottom else 103)
    elif not figure.higher and 0 < 10 * lowest < highest:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    elif not figure.higher and lowest >= 0 < highest:
        axes.set_ylim(0, 1.05 * highest)


def _drawn(each: Manifestation, figure: Figure) -> float:
    return each.score[figure.name] * (100 if figure.percent else 1)


def _line(
    axes: Axes, found: Sequence[Manifestation], figure: Figure, colour: str, width: float, *, marked: bool
) -> None:
    shown = [each for each in found if math.isfinite(each.score[figure.name])]
    if not shown:
        return
    evaluations, values = [each.evaluations for each in shown], [_drawn(each, figure) for each in shown]
    axes.plot(evaluations, values, "o-", color=colour, lw=width, ms=4 + width, label=found[0].integrator)
    if marked:
        trained = min(shown, key=lambda each: abs(each.steps_factor - 1))
        axes.plot(trained.evaluations, _drawn(trained, figure), "o", ms=13, mfc="none", mec=colour, mew=2, zorder=3)
