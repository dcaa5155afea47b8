"""Draw the README's picture from what `dynamicblocks converge` recorded on CIFAR-10.

Example: python docs/figures/convergence.py
"""

import json
from pathlib import Path

from dynamicblocks.analysis import Panel, draw_manifestations
from dynamicblocks.training import Manifestation, Score

HERE = Path(__file__).parent
RESULT = HERE.parents[1] / "experiments" / "results" / "cifar10_convergence.json"
IMAGES = 10_000
TITLES = {
    "fast20_rk4_1to2": "ContinuousNet, trained with RK4",
    "fast20_euler_2": "ContinuousNet, trained with Euler",
    "fast_resnet20": "Plain ResNet-20",
}


def recorded(each: dict) -> Manifestation:
    score = Score({name: each[name] for name in ("loss", "accuracy")}, IMAGES, IMAGES / each["images_per_second"])
    return Manifestation(each["integrator"], each["steps_factor"], each["evaluations"], score)


def main() -> None:
    runs = json.loads(RESULT.read_text())["runs"]
    panels = [
        Panel(TITLES[run["folder"]], run["trained_with"], [recorded(each) for each in run["manifestations"]])
        for run in runs
    ]
    path = HERE / "convergence.png"
    draw_manifestations(panels, path, subject="test images of CIFAR-10")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
