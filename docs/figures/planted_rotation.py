"""Draw the result of experiments/planted_rotation.py: what a twisted and a plain layer make of a turned photograph.

Example: python docs/figures/planted_rotation.py
"""

import json
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parents[1] / "experiments"
RESULT = EXPERIMENTS / "results" / "planted_rotation.json"
DEGREES = 3
SEED = 0
SHOWN = ("plain 5x5", "twist")
LINES = {
    "plain 5x5": ("plain 5x5, 25 weights", "#d1495b"),
    "twist": ("twist, 18 weights", "#00798c"),
    "twist 5x5": ("twist 5x5, 50 weights", "#30638e"),
    "twist, full, degree 2": ("twist, full, degree 2, 54 weights", "#edae49"),
}


def predictions() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """A held-out image, the same turned, the errors of the layers, trained as in the experiment, and the disc."""
    experiment = runpy.run_path(str(EXPERIMENTS / "planted_rotation.py"))
    matrix, count = experiment["turned"](DEGREES), experiment["PATCHES"]
    data, other = (experiment["pairs"](matrix, count, SEED, held_out=held_out) for held_out in (False, True))
    # The one that changes most.
    index = int((other.images - other.targets).square().mean((1, 2, 3)).argmax())
    errors = {}
    for name in SHOWN:
        model = experiment["MODELS"][name]().double()
        experiment["train"](model, data)
        with torch.no_grad():
            errors[name] = (model(other.images) - other.targets)[index, 0].numpy()
    return other.images[index, 0].numpy(), other.targets[index, 0].numpy(), errors, experiment["disc"]().numpy()


def draw_pictures(figure: SubFigure) -> None:
    image, target, errors, disc = predictions()
    panels = figure.subplots(2, 2)
    for axes, (title, picture) in zip(
        panels[0], {"image": image, f"target: turned by {DEGREES}°": target}.items(), strict=True
    ):
        axes.imshow(picture, cmap="gray", vmin=image.min(), vmax=image.max())
        axes.set_title(title, fontsize=10)
    largest = max(np.abs(error[disc]).max() for error in errors.values())
    for axes, (name, error) in zip(panels[1], errors.items(), strict=True):
        shown = axes.imshow(np.where(disc, error, np.nan), cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_title(f"error of {LINES[name][0].partition(',')[0]}", fontsize=10, color=LINES[name][1])
    figure.colorbar(
        shown, ax=panels[1], location="bottom", shrink=0.6, aspect=30, label="error, of grey values in [0, 1]"
    )
    for axes in panels.flat:
        axes.set_axis_off()


def draw_errors(axes: Axes, rows: list[dict]) -> None:
    """Mean and range over the seeds, over the angle."""
    for name, (label, colour) in LINES.items():
        mine = [row for row in rows if row["model"] == name and row["task"].startswith("turned")]
        degrees = [float(row["task"].split()[2]) for row in mine]
        means = [row["rms_mean"] for row in mine]
        low, high = zip(*(row["rms_range"] for row in mine), strict=True)
        spread = [np.subtract(means, low), np.subtract(high, means)]
        axes.errorbar(degrees, means, spread, color=colour, marker="o", capsize=3, lw=2, label=label)
    axes.axhline(1, color="0.5", lw=1, ls="--")
    axes.annotate("doing nothing", (10, 1), (0, 4), textcoords="offset points", ha="right", fontsize=9, color="0.4")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xticks(degrees, [f"{each:g}°" for each in degrees])
    axes.set_yticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
    axes.set_ylim(0.055, 1.3)
    axes.set_xlabel("angle")
    axes.set_ylabel("root mean square error, doing nothing = 1")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 0.48))


def main() -> None:
    result = json.loads(RESULT.read_text())
    figure = plt.figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.35], wspace=0.05)
    draw_pictures(left)
    draw_errors(right.subplots(), result["summary"])
    seeds = len(result["configuration"]["seeds"])
    figure.suptitle(f"Predict a turned photograph with one layer ({seeds} draws of patches, held out)", fontsize=12)
    path = HERE / "planted_rotation.png"
    figure.savefig(path, dpi=150)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
