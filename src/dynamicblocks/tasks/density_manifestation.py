"""One trained field under many solvers and step counts: the quality of its samples against evaluations."""

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from torch import Tensor

from dynamicblocks.counting import counting
from dynamicblocks.data.densities.points import PointSet
from dynamicblocks.errors import SolverError
from dynamicblocks.flows import ContinuousTransform
from dynamicblocks.flows.distance import wasserstein2
from dynamicblocks.functional import Solver
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_look import LEARNT, PLAIN, dots, dress, frame_of, plain, shades_of, show_tiles
from dynamicblocks.tasks.density_net import DensityNet
from dynamicblocks.training.storage import write_picture, write_text

# Steps of methods on a grid and tolerances of dopri5: of points, and of images, whose evaluations are dear.
GRIDS = {
    "euler": (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100),
    "midpoint": (1, 2, 3, 5, 10, 25, 50),
    "rk4": (1, 2, 3, 5, 10, 25),
}
IMAGE_GRIDS = {"euler": (1, 2, 3, 5, 10, 20, 50), "midpoint": (1, 2, 5, 10, 25), "rk4": (1, 2, 5, 12)}
TOLERANCES, IMAGE_TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6), (1e-1, 1e-2, 1e-3, 1e-4)
ADAPTIVE = "dopri5"
STAGES = {"euler": 1, "midpoint": 2, "rk4": 4, ADAPTIVE: 7}
COLOURS = {"euler": "#d1495b", "midpoint": "#00798c", "rk4": "#edae49", ADAPTIVE: "#22223b"}
# Points that are matched with held-out ones; seconds that all together may take.
POINTS, IMAGES, SECONDS = 512, 256, 15.0
# Euler steps whose samples are shown, and how many images of each.
SHOWN, TILES = (1, 3, 10, 100), 16


@dataclass(frozen=True)
class Setting:
    """A solver: so many steps on a grid, or a tolerance."""

    method: str
    steps: int | None = None
    tolerance: float | None = None

    def solver(self, horizon: float) -> Solver:
        """It, for a solve over [0, horizon]."""
        if self.tolerance is None:
            assert self.steps is not None
            return Solver(self.method, step_size=horizon / self.steps)
        return Solver(self.method, rtol=self.tolerance, atol=self.tolerance, max_steps=10_000)


@dataclass(frozen=True)
class Manifested:
    """Samples of a field under one setting.

    Args:
        setting: how they were made.
        evaluations: of the field, for all of them together.
        distance: W2 to as many held-out points.
        samples: in units of the data.
    """

    setting: Setting
    evaluations: int
    distance: float
    samples: Tensor = field(repr=False)


@dataclass(frozen=True)
class Manifestations:
    """One field under many settings.

    Args:
        rows: those that were measured.
        left_out: those that were too dear.
        floor: W2 of two sets of held-out points, as many as in ``rows``.
        points: how many.
        unit: of the distances.
    """

    rows: list[Manifested]
    left_out: list[Setting]
    floor: float
    points: int
    unit: str

    def of(self, method: str) -> list[Manifested]:
        """Those of a method, in the order of their evaluations."""
        return [row for row in self.rows if row.setting.method == method]


def settings_of(images: bool) -> list[Setting]:
    """All of them, the cheapest first."""
    grids, tolerances = (IMAGE_GRIDS, IMAGE_TOLERANCES) if images else (GRIDS, TOLERANCES)
    found = [Setting(method, steps) for method, counts in grids.items() for steps in counts]
    found += [Setting(ADAPTIVE, tolerance=tolerance) for tolerance in tolerances]
    return sorted(found, key=_guessed)


def _guessed(setting: Setting) -> float:
    """Evaluations that a setting takes: exact on a grid, a rule of thumb for tolerances."""
    stages = STAGES[setting.method]
    return stages * (setting.steps or 0.5 * (setting.tolerance or 1.0) ** -0.25 + 2)


def manifest(
    net: DensityNet, known: DensityFacts, test: PointSet, *, seconds: float = SECONDS, seed: int = 0
) -> Manifestations:
    """Samples of ``net`` under many solvers, all from the same noise, against held-out points.

    Half of the test points, and at most 512 (256 images; assignment is cubic), are what samples are matched with, under
    their contexts; as many others tell how far two sets of true points are apart. Points are compared in deviations of
    the training data, pixels from 0 to 1; a context counts as further coordinates, so that a sample that suits another
    context is far from every point of its own.

    Args:
        net: in evaluation mode.
        known: facts of the data.
        test: held-out points, at least two.
        seconds: of this thread that all may take together: the dearest settings are left out beyond.
        seed: of the noise, and of which points.
    """
    images = known.levels is not None
    number = max(1, min(IMAGES if images else POINTS, len(test) // 2))
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    here, there = test.select(order[:number]), test.select(order[number : 2 * number])
    target = _coordinates(here.points, net, here.context, known)
    floor = float("nan")
    if len(there) == number:
        floor = wasserstein2(target, _coordinates(there.points, net, there.context, known))
    horizon = next(part.horizon for part in net.flow.modules() if isinstance(part, ContinuousTransform))
    rows: list[Manifested] = []
    left_out: list[Setting] = []
    # Not the time on the wall, so that what else the machine does leaves the table as it is.
    begin, rate = time.thread_time(), 0.0
    for setting in settings_of(images):
        now = time.thread_time()
        if now - begin + rate * _guessed(setting) > seconds:
            left_out.append(setting)
            continue
        try:
            with counting() as count:
                samples = net.sample(number, here.context, seed=seed, solver=setting.solver(horizon)).double().cpu()
        except SolverError:  # it takes more steps than any use has, or the field is not finite so far out
            left_out.append(setting)
            continue
        rate = (time.thread_time() - now) / max(count.forward, 1)
        if bool(torch.isfinite(samples).all()):
            distance = wasserstein2(_coordinates(samples, net, here.context, known), target)
            rows.append(Manifested(setting, count.forward, distance, samples))
        else:
            left_out.append(setting)
    unit = "pixels from 0 to 1" if images else "in standard deviations"
    return Manifestations(rows, left_out, floor, number, unit)


def _coordinates(points: Tensor, net: DensityNet, context: Tensor | None, known: DensityFacts) -> Tensor:
    """What is compared: points and their contexts, each in its unit."""
    scale = torch.tensor(known.std if known.levels is None else known.levels - 1.0, dtype=torch.float64)
    found = [(points.double() / scale).flatten(1)]
    scaled = net.scaled(context)
    return torch.cat(found if scaled is None else [*found, scaled.double().cpu()], 1)


# Files


def table_of(found: Manifestations) -> str:
    """A CSV table: a row for each setting, in the order of methods."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "steps", "tolerance", "evaluations", "w2", "w2_of_held_out", "points"))
    for method in COLOURS:
        for row in found.of(method):
            setting = row.setting
            writer.writerow((
                method, setting.steps or "", setting.tolerance or "", row.evaluations, f"{row.distance:.6g}",
                f"{found.floor:.6g}", found.points,
            ))  # fmt: skip
    return text.getvalue()


def draw_manifestations(found: Manifestations, known: DensityFacts, path: Path) -> None:
    """Quality against evaluations, a line for each method; below, samples of the fewest and of many Euler steps."""
    few = [row for row in found.of("euler") if row.setting.steps in SHOWN]
    below = bool(few) and (known.levels is not None or known.numbers == 2)
    figure = Figure(figsize=(8, 6.6 if below else 4.2), layout="constrained")
    parts = figure.subfigures(2 if below else 1, 1, height_ratios=[1.7, 1] if below else None, squeeze=False)[:, 0]
    _curves(parts[0].subplots(), found)
    if below:
        drawn = parts[1].subplots(1, len(few), squeeze=False)[0]
        _samples(list(drawn), few, known)
    write_picture(path, figure.savefig, dpi=110)


def _curves(axes: Axes, found: Manifestations) -> None:
    for method, colour in COLOURS.items():
        rows = found.of(method)
        if rows:
            style = "D--" if method == ADAPTIVE else "o-"
            across, up = [row.evaluations for row in rows], [row.distance for row in rows]
            axes.plot(across, up, style, color=colour, ms=4, lw=1.5, label=method, clip_on=False)
    axes.axhline(found.floor, color=PLAIN, lw=1, ls=":", label="held-out points to as many others")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for each in (axes.xaxis, axes.yaxis):
        each.set_major_locator(LogLocator(subs=(1, 2, 5)))
        each.set_major_formatter(FormatStrFormatter("%g"))
        each.set_minor_locator(NullLocator())
    axes.set_xlabel("evaluations of the field for a sample", fontsize=8)
    axes.set_ylabel(f"W2 to {found.points:,} held-out points ({found.unit})", fontsize=8)
    axes.set_title("The same trained field under other solvers and step counts", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    plain(axes)


def _samples(drawn: list[Axes], few: list[Manifested], known: DensityFacts) -> None:
    shades = shades_of(known)
    frame = None if shades else frame_of(few[-1].samples)
    for axes, row in zip(drawn, few, strict=True):
        steps = row.setting.steps
        title = f"Euler, {steps} step{'s' if steps != 1 else ''}"
        if shades is None:
            axes.scatter(*row.samples.T.numpy(), color=LEARNT, **dots(len(row.samples)))
            dress(axes, title, frame)
        else:
            show_tiles(axes, shades.tiles(row.samples[:TILES], 4), title)


def write_manifestations(found: Manifestations, known: DensityFacts, folder: Path) -> Iterator[Path]:
    """manifestation.png and manifestation.csv."""
    picture, table = folder / "manifestation.png", folder / "manifestation.csv"
    draw_manifestations(found, known, picture)
    yield picture
    write_text(table, table_of(found))
    yield table
