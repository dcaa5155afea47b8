"""A task that constant coefficients cannot solve: predict a photograph turned, or scaled, a little about its centre.

One layer, no pooling, no activation. A turn by a small angle moves each pixel by a vector that is linear in its place,
so a first-order operator whose coefficients are linear in X and Y does it to first order. A plain convolution does the
same at every place. All models are linear in their weights, so that training can be held against the least-squares
optimum. Errors are measured in a disc inside the image, on parts of the photographs that are not trained on.

Example: python experiments/planted_rotation.py --seeds 3
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from dynamicblocks.analysis import TwistOperators, operators
from dynamicblocks.layers import TwistConv2d
from dynamicblocks.training.environment import environment

RESULT = Path(__file__).parent / "results" / "planted_rotation.json"
DATA = "china.jpg and flower.jpg of scikit-learn, in grey, smoothed; left halves to train on, right halves held out"
SIDE = 32
RADIUS = 13.0  # of the disc in which errors are measured: what a 7x7 kernel reads from there is inside the image
SMOOTHING = 1.0  # standard deviation in pixels of the Gaussian that takes away the noise of the camera
PATCHES = 48
ITERATIONS = 400
SPLINE = 5  # order of the interpolation that makes the targets


def turned(degrees: float) -> np.ndarray:
    """Where the target reads the image, (row, column) from the centre: an image turned anticlockwise as it is seen."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def scaled(factor: float) -> np.ndarray:
    """The same of an image that is enlarged."""
    return np.eye(2) / factor


TASKS = {
    **{f"turned by {degrees:g} degrees": turned(degrees) for degrees in (1, 2, 3, 5, 10)},
    **{f"scaled by {factor:g}": scaled(factor) for factor in (1.01, 1.03, 1.05)},
}


def plain(size: int) -> nn.Module:
    return nn.Conv2d(1, 1, size, padding=size // 2, bias=False)


def twisted(parametrisation: str, degree: int, size: int = 3) -> nn.Module:
    return TwistConv2d(1, 1, size, padding=size // 2, bias=False, parametrisation=parametrisation, degree=degree)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain 3x3": partial(plain, 3),
    "plain 5x5": partial(plain, 5),
    "plain 7x7": partial(plain, 7),
    "twist": partial(twisted, "vector", 1),
    "twist 5x5": partial(twisted, "vector", 1, size=5),
    "twist, independent": partial(twisted, "independent", 1),
    "twist, full": partial(twisted, "full", 1),
    "twist, degree 2": partial(twisted, "vector", 2),
    "twist, full, degree 2": partial(twisted, "full", 2),
}
# Plain layers with as many weights: 25 for 18, 49 for 50.
RIVALS = {"twist": "plain 5x5", "twist 5x5": "plain 7x7"}


class Pairs(NamedTuple):
    """Images and the same images moved: (count, 1, SIDE, SIDE) each."""

    images: Tensor
    targets: Tensor

    def mean_square(self, predicted: Tensor) -> Tensor:
        """Of the error in the disc."""
        return (predicted - self.targets)[..., disc()].square().mean()


@cache
def disc() -> Tensor:
    """The pixels where errors are measured: (SIDE, SIDE)."""
    places = torch.arange(SIDE) - (SIDE - 1) / 2
    return torch.hypot(places, places[:, None]) <= RADIUS


@cache
def splines() -> list[np.ndarray]:
    """Coefficients of the interpolating splines of the photographs."""
    grey = [photo @ np.array([0.299, 0.587, 0.114]) / 255 for photo in load_sample_images().images]
    return [ndimage.spline_filter(ndimage.gaussian_filter(photo, SMOOTHING), order=SPLINE) for photo in grey]


def pairs(matrix: np.ndarray, count: int, seed: int, *, held_out: bool) -> Pairs:
    """Random patches; each is moved inside its photograph, so that nothing comes from beyond an edge."""
    random = np.random.default_rng([seed, held_out])
    images, targets = [], []
    for index in range(count):
        spline = splines()[index % 2]
        height, width = spline.shape[0], spline.shape[1] // 2
        place = np.array([random.integers(SIDE, height - SIDE), random.integers(SIDE, width - SIDE)]) + 0.5
        place[1] += width * held_out
        for kept, moved in ((images, np.eye(2)), (targets, matrix)):
            offset = place - moved @ np.full(2, (SIDE - 1) / 2)
            shape = (SIDE, SIDE)
            patch = ndimage.affine_transform(spline, moved, offset, shape, order=SPLINE, prefilter=False)
            kept.append(torch.from_numpy(patch))
    return Pairs(torch.stack(images)[:, None], torch.stack(targets)[:, None])


def train(model: nn.Module, data: Pairs, iterations: int = ITERATIONS) -> float:
    """From the identity, with L-BFGS; the mean square error relative to that of the identity."""
    with torch.no_grad():
        model.weight.zero_()
        model.weight[..., model.kernel_size[0] // 2, model.kernel_size[1] // 2] = 1
    unchanged = data.mean_square(data.images)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=iterations,
        history_size=60,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = data.mean_square(model(data.images)) / unchanged
        loss.backward()
        return loss

    optimizer.step(closure)
    return closure().item()


@torch.no_grad()
def least_squares(model: nn.Module, data: Pairs) -> float:
    """The smallest error of any weights, relative to that of the identity; the weights of the model are lost."""
    columns = []
    for parameter in model.parameters():
        parameter.zero_()
    for parameter in model.parameters():
        for weight in parameter.view(-1).unbind():
            weight.fill_(1)
            columns.append(model(data.images)[..., disc()].flatten())
            weight.zero_()
    responses, target = torch.stack(columns, 1), data.targets[..., disc()].flatten()[:, None]
    # Twists have weights that do nothing, so the rank is smaller than the number of columns.
    best = torch.linalg.lstsq(responses, target, driver="gelsd").solution
    return ((responses @ best - target).square().mean() / data.mean_square(data.images)).item()


def measured(name: str, matrix: np.ndarray, seed: int, patches: int = PATCHES) -> dict:
    """One model on one task."""
    data, other = (pairs(matrix, patches, seed, held_out=held_out) for held_out in (False, True))
    model = MODELS[name]().double()
    best = least_squares(model, data)
    reached = train(model, data)
    with torch.no_grad():
        error = (other.mean_square(model(other.images)) / other.mean_square(other.images)).item()
    found = {
        "model": name,
        "seed": seed,
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "training_mse": reached,
        "training_mse_of_least_squares": best,
        "mse": error,
        "rms": error**0.5,
    }
    if isinstance(model, TwistConv2d) and model.kernel_size == (3, 3):
        lens = operators(model)
        assert isinstance(lens, TwistOperators)
        found["degrees"] = float(np.rad2deg(lens.curl.item() / SIDE))
        found["factor"] = 1 - lens.divergence.item() / SIDE
    return found


def summary(runs: Sequence[dict]) -> list[dict]:
    """Mean and range over the seeds of errors relative to the identity, and how many times lower than plain ones."""
    rows = []
    for task in TASKS:
        mine = [run for run in runs if run["task"] == task]
        for model in MODELS:
            found = [run for run in mine if run["model"] == model]
            rival = RIVALS.get(model, "plain 5x5")
            plain = {run["seed"]: run["mse"] for run in mine if run["model"] == rival}
            ratios = [plain[run["seed"]] / run["mse"] for run in found]
            rms = [run["rms"] for run in found]
            rows.append(
                {
                    "task": task,
                    "model": model,
                    "weights": found[0]["weights"],
                    "rms_mean": statistics.mean(rms),
                    "rms_range": [min(rms), max(rms)],
                    "rival": rival,
                    "mse_times_lower_than_rival": statistics.mean(ratios),
                    "mse_times_lower_range": [min(ratios), max(ratios)],
                    "rms_times_lower_than_rival": statistics.mean(ratio**0.5 for ratio in ratios),
                }
            )
    return rows


def table(rows: Sequence[dict]) -> str:
    """For the README: a row for each model, a column for each task."""
    lines = ["| model | weights | " + " | ".join(TASKS) + " |", "|---" * (len(TASKS) + 2) + "|"]
    for model in MODELS:
        mine = [row for row in rows if row["model"] == model]
        lines.append(
            f"| {model} | {mine[0]['weights']} | " + " | ".join(f"{row['rms_mean']:.3f}" for row in mine) + " |"
        )
    for model, rival in RIVALS.items():
        for kind in ("mse", "rms"):
            ratios = [row[f"{kind}_times_lower_than_rival"] for row in rows if row["model"] == model]
            lines.append(f"| {rival} / {model}, {kind} | | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of draws of patches, from 0 (default 3)")
    seeds = parser.parse_args().seeds
    runs = []
    for task, matrix in TASKS.items():
        for seed in range(seeds):
            for name in MODELS:
                runs.append({"task": task, **measured(name, matrix, seed)})
                print(f"{task}, {name}, seed {seed}: rms {runs[-1]['rms']:.4f}", flush=True)
    configuration = {
        "side": SIDE,
        "radius": RADIUS,
        "smoothing": SMOOTHING,
        "patches": PATCHES,
        "iterations": ITERATIONS,
        "spline": SPLINE,
        "seeds": list(range(seeds)),
    }
    record = {"date": f"{date.today()}", **environment(), "data": DATA, "configuration": configuration}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**record, "summary": summary(runs), "runs": runs}, indent=1) + "\n")
    print(table(summary(runs)))
    print(f"written to {RESULT}; draw it with: python docs/figures/planted_rotation.py")


if __name__ == "__main__":
    main()
