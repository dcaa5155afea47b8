"""Periodic series of one feature at irregular times, for models that have to go on where the data end."""

import math

import torch
from torch import Tensor

from dynamicblocks.data.series.dataset import SeriesDataset
from dynamicblocks.data.series.made import PARTS, Wishes, made_series, names
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError

NUMBER, POINTS, STOP = 1000, 100, 5.0
# Times are multiples of STOP / TICKS: no two of a series are so near that they are one in float32.
TICKS = 5000
SLOWEST, FASTEST = 0.5, 1.0
NOISE = 0.1


@made_series.register("periodic")
def periodic(wishes: Wishes) -> SeriesDataset:
    """sin(2 pi (frequency t + phase)): a frequency in [0.5, 1] and a phase for each series, 100 times in [0, 5]."""
    points = POINTS if wishes.points is None else wishes.points
    noise = NOISE if wishes.noise is None else wishes.noise
    if points > TICKS:
        raise ConfigurationError(f"data.points of periodic series must be at most {TICKS}, got {points}")
    waves: dict[str, tuple[float, float]] = {}
    splits = {
        part: _split(wishes.seed, part, number, points, noise, waves) for part, number in wishes.counts(NUMBER).items()
    }

    def truth(series: SeriesSet) -> Tensor:
        return _wave(torch.tensor([waves[name] for name in series.ids], dtype=torch.float64), series.times)

    note = (
        f"periodic series, seed {wishes.seed}: {len(splits['train']):,} for training, "
        f"{len(splits['validation']):,} for validation, {len(splits['test']):,} for test, {points} irregular times in "
        f"[0, {STOP:g}], frequencies from {SLOWEST:g} to {FASTEST:g}, noise {noise:g}"
    )
    return SeriesDataset(**splits, note=note, truth=truth)


def _split(
    seed: int, part: str, number: int, points: int, noise: float, waves: dict[str, tuple[float, float]]
) -> SeriesSet:
    """The series of a split; what they are without noise is added to ``waves``."""
    drawn = torch.empty(number, 2, dtype=torch.float64)
    times = torch.empty(number, points, dtype=torch.float64)
    noises = torch.empty(number, points, 1, dtype=torch.float64)
    for row in range(number):
        own = generator(seed, PARTS.index(part), row)
        drawn[row] = torch.rand(2, dtype=torch.float64, generator=own)
        times[row] = torch.randperm(TICKS + 1, generator=own)[:points].sort().values * (STOP / TICKS)
        noises[row] = torch.randn(points, 1, dtype=torch.float64, generator=own)
    drawn[:, 0] = SLOWEST + (FASTEST - SLOWEST) * drawn[:, 0]
    ids = tuple(names(part, number))
    waves.update(zip(ids, map(tuple, drawn.tolist()), strict=True))
    return SeriesSet.of(times, _wave(drawn, times) + noise * noises, ids=ids)


def _wave(waves: Tensor, times: Tensor) -> Tensor:
    frequency, phase = waves[:, :1], waves[:, 1:]
    return (2 * math.pi * (frequency * times + phase)).sin()[..., None]
