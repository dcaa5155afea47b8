"""The picture of a convergence test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamicblocks.training.manifestations import Manifestation

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


def draw_manifestations(panels: Sequence[Panel], path: Path, *, subject: str) -> None:
    """Accuracy over the number of evaluations, one panel a network and one line an integrator.

    Args:
        panels: the networks, from left to right.
        path: of the PNG file.
        subject: on what it was measured, for instance ``test images of cifar10``.
    """
    figure = Figure(figsize=(4.2 * len(panels) + 1, 3.9), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    integrators = list(dict.fromkeys(each.integrator for panel in panels for each in panel.found))
    # Small differences at high accuracies would not be seen above zero; the axis says where it begins.
    lowest = min(100 * each.score["accuracy"] for panel in panels for each in panel.found)
    bottom = 10 * math.floor(lowest / 10) if lowest > 50 else 0
    for axes, panel in zip(drawn, panels, strict=True):
        for place, (integrator, colour) in enumerate(zip(integrators, COLOURS, strict=False)):
            mine = [each for each in panel.found if each.integrator == integrator]
            # Lines that coincide stay visible, the wider one below.
            width = 1.5 + 0.7 * (len(integrators) - 1 - place)
            _line(axes, mine, colour, width, marked=integrator == panel.trained_with)
        axes.set_title(panel.title, fontsize=11)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("evaluations of layer functions")
        axes.set_ylim(bottom, 100 if bottom else 103)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    drawn[0].set_ylabel(f"accuracy (%), {subject}")
    drawn[0].legend(title="evaluated with", frameon=False, loc="best")
    figure.savefig(path, dpi=150)


def _line(axes: Axes, found: Sequence[Manifestation], colour: str, width: float, *, marked: bool) -> None:
    if not found:
        return
    evaluations, accuracies = [each.evaluations for each in found], [100 * each.score["accuracy"] for each in found]
    axes.plot(evaluations, accuracies, "o-", color=colour, lw=width, ms=4 + width, label=found[0].integrator)
    if marked:
        as_trained = min(found, key=lambda each: abs(each.steps_factor - 1))
        axes.plot(
            as_trained.evaluations,
            100 * as_trained.score["accuracy"],
            "o",
            ms=13,
            mfc="none",
            mec=colour,
            mew=2,
            zorder=3,
        )
