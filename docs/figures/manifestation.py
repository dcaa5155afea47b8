"""Draw the README's picture from the recorded result of experiments/digits_manifestation.py.

Example: python docs/figures/manifestation.py
"""

import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
RESULT = HERE.parents[1] / "experiments" / "results" / "digits_manifestation.json"
COLOURS = {"euler": "#d1495b", "midpoint": "#00798c", "rk4_classic": "#edae49"}
TITLES = {
    "continuous": "Network of continuous depth\n(piecewise linear weights, trained with midpoint)",
    "plain ResNet": "Plain ResNet of equal size\n(a weight for each Euler step)",
}


def draw(axes: Axes, runs: list[dict]) -> None:
    """Mean and range over the seeds of the test accuracy, over the number of steps, one line an integrator."""
    factors = sorted({each["steps_factor"] for each in runs[0]["manifestations"]})
    for place, (integrator, colour) in enumerate(COLOURS.items()):
        found = [
            [
                100 * each["accuracy"]
                for run in runs
                for each in run["manifestations"]
                if (each["integrator"], each["steps_factor"]) == (integrator, factor)
            ]
            for factor in factors
        ]
        means = [statistics.mean(values) for values in found]
        below = [mean - min(values) for mean, values in zip(means, found, strict=True)]
        above = [max(values) - mean for mean, values in zip(means, found, strict=True)]
        # Side by side, so that ranges do not hide each other.
        places = [index + 0.08 * (place - 1) for index in range(len(factors))]
        axes.errorbar(places, means, [below, above], color=colour, marker="o", capsize=3, lw=2, label=integrator)
    axes.set_xticks(range(len(factors)), [f"{factor} x" for factor in factors])
    axes.set_xlabel("steps, as multiples of those in training")
    axes.set_ylim(0, 103)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    result = json.loads(RESULT.read_text())
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axes, (model, title) in zip(panels, TITLES.items(), strict=False):
        draw(axes, [run for run in result["runs"] if run["model"] == model])
        axes.set_title(title, fontsize=11)
    panels[0].set_ylabel("test accuracy (%)")
    panels[0].legend(title="evaluated with", frameon=False, loc="lower right")
    seeds = len({run["seed"] for run in result["runs"]})
    figure.suptitle(f"The same trained weights, other integrators and step counts (digits, {seeds} seeds)", fontsize=12)
    path = HERE / "manifestation.png"
    figure.savefig(path, dpi=150)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
