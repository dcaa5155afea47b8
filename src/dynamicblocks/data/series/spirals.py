"""The spirals of Chen et al. (2018): irregular times, noise, and the truth beyond the training interval.

Two curves are passed through over the times from 0 to 6 pi at 1,000 equal steps: outwards, (a + b t) (cos t, sin t) +
(5, 0), against the clock; and inwards with s = 6 pi + 1 - t, (a + 50 b / s) (cos s, sin s) - (5, 0), with the clock.
A series starts somewhere on one of them, and its times count from there. As in the example published with torchdiffeq,
those of training start anywhere but within 100 steps of the ends; the others 100 steps earlier at the latest, so that
the times that follow them still lie on the curve, where some series of training were.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynamicblocks.data.series.dataset import SeriesDataset
from dynamicblocks.data.series.made import PARTS, Wishes, made_series, names
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError

A, B = 0.0, 0.3
STOP = 6 * math.pi
ON_A_CURVE = 1000
SPACING = STOP / (ON_A_CURVE - 1)
# Equal times of a series in the training interval, and as many behind it.
LENGTH = 100
NUMBER = 1000
NOISE = 0.3
FIRST_START, LAST_START = LENGTH, ON_A_CURVE - LENGTH - 1
LAST_START_FOLLOWED = ON_A_CURVE - 2 * LENGTH
CLASSES = ("clockwise", "counterclockwise")


def on_a_spiral(clockwise: Tensor, times: Tensor) -> Tensor:
    """Points (..., 2) of the curves at times (...) in [0, 6 pi]."""
    inwards = STOP + 1 - times
    angle = torch.where(clockwise, inwards, times)
    radius = torch.where(clockwise, A + B * 50 / inwards, A + B * times)
    centre = torch.where(clockwise, -5.0, 5.0)
    return torch.stack([radius * angle.cos() + centre, radius * angle.sin()], -1)


@dataclass(frozen=True)
class _Drawn:
    """What was drawn for the spirals of a split: every second one is clockwise."""

    start: Tensor
    noise: Tensor
    order: Tensor

    @property
    def clockwise(self) -> Tensor:
        return torch.arange(len(self.start)) % 2 == 0


def _drawn(seed: int, part: str, number: int) -> _Drawn:
    """Each spiral has draws of its own: fewer series, or fewer points, are some of the same."""
    last = LAST_START if part == "train" else LAST_START_FOLLOWED
    start = torch.empty(number, dtype=torch.int64)
    noise = torch.empty(number, 2 * LENGTH, 2, dtype=torch.float64)
    order = torch.empty(number, LENGTH, dtype=torch.int64)
    for row in range(number):
        own = generator(seed, PARTS.index(part), row)
        start[row] = torch.randint(FIRST_START, last + 1, (), generator=own)
        noise[row] = torch.randn(2 * LENGTH, 2, dtype=torch.float64, generator=own)
        order[row] = torch.randperm(LENGTH, generator=own)
    return _Drawn(start.double() * SPACING, noise, order)


@made_series.register("spirals")
def spirals(wishes: Wishes) -> SeriesDataset:
    """Spirals: in training so many irregular points of the interval; in the others 100 later points follow.

    The later points are noisy in the validation split, and the truth in the test split.
    """
    points = LENGTH if wishes.points is None else wishes.points
    noise = NOISE if wishes.noise is None else wishes.noise
    if points > LENGTH:
        raise ConfigurationError(f"data.points of spirals must be at most the {LENGTH} times of each, got {points}")
    counts = wishes.counts(NUMBER)
    drawn = {part: _drawn(wishes.seed, part, number) for part, number in counts.items()}
    curves = {
        name: (clockwise, start)
        for part, each in drawn.items()
        for name, clockwise, start in zip(
            names(part, len(each.start)), each.clockwise.tolist(), each.start.tolist(), strict=True
        )
    }

    def truth(series: SeriesSet) -> Tensor:
        mine = [curves[name] for name in series.ids]
        clockwise = torch.tensor([each for each, _ in mine])
        starts = torch.tensor([start for _, start in mine], dtype=torch.float64)
        return on_a_spiral(clockwise[:, None], starts[:, None] + series.times)

    return SeriesDataset(
        **{part: _observed(part, each, points, noise) for part, each in drawn.items()},
        note=(
            f"spirals (Chen et al. 2018), seed {wishes.seed}: {counts['train']:,} for training, half clockwise, "
            f"{points} of {LENGTH} times each, noise {noise:g}; {counts['validation']:,} for validation and "
            f"{counts['test']:,} for test, {LENGTH} later times wanted (test: without noise)"
        ),
        truth=truth,
    )


def _observed(part: str, drawn: _Drawn, points: int, noise: float) -> SeriesSet:
    chosen = drawn.order[:, :points].sort(1).values
    if part != "train":
        later = torch.arange(LENGTH, 2 * LENGTH).expand(len(chosen), -1)
        chosen = torch.cat([chosen, later], 1)
    times = chosen * SPACING
    exact = on_a_spiral(drawn.clockwise[:, None], drawn.start[:, None] + times)
    noisy = exact + noise * drawn.noise.gather(1, chosen[..., None].expand(-1, -1, 2))
    seen = chosen < LENGTH
    values = noisy if part != "test" else torch.where(seen[..., None], noisy, exact)
    found = SeriesSet.of(
        times,
        values,
        features=("x", "y"),
        ids=tuple(names(part, len(chosen))),
        labels=[CLASSES[0 if each else 1] for each in drawn.clockwise.tolist()],
        classes=CLASSES,
    )
    return found if part == "train" else replace(found, seen=seen, wanted=~seen)
