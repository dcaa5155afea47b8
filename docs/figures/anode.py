"""Draw what the gradient modes did to one ReLU block network, from what experiments/anode.py measured.

Example: python docs/figures/anode.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
RESULT = HERE.parents[1] / "experiments" / "results" / "anode.json"
COLOURS = {"backprop": "#d1495b", "checkpoint": "#edae49", "adjoint, interpolant": "#00798c", "adjoint": "#30638e"}
NAMES = {"adjoint": "adjoint, reverse time"}
SOLVERS = {"adaptive": "steps chosen by bosh3", "Euler": "Euler's steps"}
# Beyond this a gradient is as wrong as it will get.
MOST = 1e12


def draw_errors(axes: Axes, rows: list[dict[str, Any]], solver: str) -> None:
    """The modes beside one another, with the weights that backprop has led to."""
    found = next(row for row in rows if (row["solver"], row["mode"]) == (solver, "backprop"))["gradients"]
    for mode, colour in COLOURS.items():
        each = [(one["epoch"], one if mode == "backprop" else one["others"].get(mode)) for one in found]
        shown = [(epoch, one["error"]) for epoch, one in each if one is not None]
        if shown:
            # No number at all is drawn at the edge, as what is larger.
            errors = [MOST if error is None else min(error, MOST) for _, error in shown]
            wide = 5 if mode == "backprop" else 1.8
            axes.plot(
                [epoch for epoch, _ in shown], errors, "o-", color=colour, lw=wide, ms=4, label=NAMES.get(mode, mode)
            )
    axes.axhline(1, color="0.5", lw=1, ls="--")
    axes.annotate("as long as the gradient", (0, 1), (0, 3), textcoords="offset points", fontsize=8, color="0.4")
    axes.set_yscale("log")
    axes.set_ylim(1e-6, 3 * MOST)
    axes.set_title(SOLVERS[solver], fontsize=11)
    axes.set_ylabel("relative error of the gradient")


def draw_accuracy(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """On the validation images, as the trainings went on."""
    for row in rows:
        shares = [100 * epoch["validation_accuracy"] for epoch in row["epochs"]]
        name = NAMES.get(row["mode"], row["mode"])
        style = "-" if row["solver"] == "adaptive" else "--"
        if shares:
            label = f"{name}, {'adaptive' if row['solver'] == 'adaptive' else 'Euler'}"
            wide = 3.5 if row["mode"] == "backprop" else 1.6
            axes.plot(range(1, len(shares) + 1), shares, style, color=COLOURS[row["mode"]], lw=wide, label=label)
        else:
            axes.plot(0.2, 10, "x", color=COLOURS[row["mode"]], ms=9, mew=2)
            axes.annotate("adjoint, adaptive: no epoch", (0.2, 10), (6, 4), textcoords="offset points", fontsize=8)
    axes.axhline(10, color="0.5", lw=1, ls=":")
    axes.set_ylim(8, 50)
    axes.set_title("trained", fontsize=11)
    axes.set_ylabel("accuracy on validation images (%)")
    axes.legend(frameon=False, fontsize=7.5, loc="upper left")


def main() -> None:
    # Of the first seed, in the order of the table.
    rows = [row for row in json.loads(RESULT.read_text())["rows"] if row["seed"] == 0]
    rows.sort(key=lambda row: (row["solver"] == "Euler", list(COLOURS).index(row["mode"])))
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")
    for axes, solver in zip(panels, SOLVERS, strict=False):
        draw_errors(axes, rows, solver)
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    draw_accuracy(panels[2], rows)
    for axes in panels:
        axes.set_xlabel("epochs")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path = HERE / "anode.png"
    figure.savefig(path, dpi=130)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
