"""Draw the errors of latent ODE and recurrent network on spirals, and what both say of two of them.

Example: python docs/figures/latent_spirals.py
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from latent_spirals import EXAMPLES, LATENT, POINTS, PUBLISHED, RNN, found_rows  # noqa: E402

COLOURS = {LATENT: "#00798c", RNN: "#d1495b"}


def draw_errors(axes: Axes) -> None:
    for model, published in PUBLISHED.items():
        rows = {
            points: [row["test_rmse"] for row in found_rows("row", model=model, points=points)] for points in POINTS
        }
        there = {points: errors for points, errors in rows.items() if errors}
        for points, errors in there.items():
            axes.plot([points] * len(errors), errors, "o", color=COLOURS[model], ms=4, alpha=0.6)
        axes.plot(list(there), [mean(errors) for errors in there.values()], color=COLOURS[model], lw=2, label=model)
        axes.plot(POINTS, published, "x--", color=COLOURS[model], lw=1, label=f"{model}, published")
    axes.set_ylim(bottom=0)
    axes.set_xticks(POINTS)
    axes.set_xlabel("points seen of each spiral")
    axes.set_ylabel("RMSE on 100 later times")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def draw_spiral(axes: Axes, examples: list[dict[str, Any]], row: int) -> None:
    for each in examples:
        seen, values = each["seen"][row], each["values"][row]
        colour = COLOURS[each["model"]]
        for draw in each["drawn"]:
            later = [point for point, known in zip(draw[row], seen, strict=True) if not known]
            axes.plot(*zip(*later, strict=True), color=colour, lw=0.6, alpha=0.25)
        later = [point for point, known in zip(each["told"][row], seen, strict=True) if not known]
        axes.plot(*zip(*later, strict=True), color=colour, lw=2, label=each["model"])
    before = [point for point, known in zip(values, seen, strict=True) if known]
    truth = [point for point, known in zip(values, seen, strict=True) if not known]
    axes.plot(*zip(*truth, strict=True), color="k", lw=1, ls=":", label="truth, later")
    axes.plot(*zip(*before, strict=True), "o", color="0.4", ms=3, label="seen")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x")
    axes.set_ylabel("y")


def main() -> None:
    kept = json.loads(EXAMPLES.read_text())
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")
    draw_errors(panels[0])
    for row, axes in enumerate(panels[1:]):
        draw_spiral(axes, kept["examples"], row)
    panels[1].legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    path = HERE / "latent_spirals.png"
    figure.savefig(path, dpi=130)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
