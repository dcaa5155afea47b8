"""Trajectories of known equations: Lotka-Volterra, and the spiral of torchdiffeq's first example."""

from collections.abc import Callable

import torch
from torch import Tensor

from dynamicblocks.data.series.dataset import SeriesDataset, Truth
from dynamicblocks.data.series.made import PARTS, Wishes, made_series, names
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import odeint

Field = Callable[[Tensor, Tensor], Tensor]

TOLERANCE = 1e-10

# Prey grows by ALPHA and is eaten by BETA; predators grow by DELTA and die by GAMMA.
ALPHA, BETA, DELTA, GAMMA = 1.5, 1.0, 1.0, 3.0
LV_NUMBER, LV_POINTS, LV_STOP, LV_NOISE = 10, 100, 10.0, 0.05
# Where trajectories start, in both features.
LOWEST, HIGHEST = 0.5, 2.0

SPIRAL_START, SPIRAL_MATRIX = (2.0, 0.0), ((-0.1, 2.0), (-2.0, -0.1))
SPIRAL_POINTS, SPIRAL_STOP = 1000, 25.0


def lotka_volterra_field(_: Tensor, state: Tensor) -> Tensor:
    """Prey and predators, (..., 2)."""
    prey, predators = state.unbind(-1)
    return torch.stack(
        [ALPHA * prey - BETA * prey * predators, DELTA * prey * predators - GAMMA * predators],
        -1,
    )


def spiral_field(_: Tensor, state: Tensor) -> Tensor:
    """y^3 A, of rows y (..., 2)."""
    return state**3 @ torch.tensor(SPIRAL_MATRIX, dtype=state.dtype)


@made_series.register("lotka_volterra")
def lotka_volterra(wishes: Wishes) -> SeriesDataset:
    """Prey and predators from ten starts, observed with noise at 100 equal times in [0, 10]."""
    points = LV_POINTS if wishes.points is None else wishes.points
    noise = LV_NOISE if wishes.noise is None else wishes.noise
    times = torch.linspace(0, LV_STOP, points, dtype=torch.float64)
    splits: dict[str, SeriesSet] = {}
    starts: dict[str, Tensor] = {}
    for part, number in wishes.counts(LV_NUMBER).items():
        drawn = [generator(wishes.seed, PARTS.index(part), row) for row in range(number)]
        first = torch.stack([torch.rand(2, dtype=torch.float64, generator=own) for own in drawn])
        first = LOWEST + (HIGHEST - LOWEST) * first
        noises = torch.stack([torch.randn(points, 2, dtype=torch.float64, generator=own) for own in drawn])
        ids = tuple(names(part, number))
        exact = _solved(lotka_volterra_field, first, times).transpose(0, 1)
        starts.update(zip(ids, first, strict=True))
        splits[part] = SeriesSet.of(times, exact + noise * noises, features=("prey", "predators"), ids=ids)
    note = (
        f"Lotka-Volterra, alpha {ALPHA:g}, beta {BETA:g}, delta {DELTA:g}, gamma {GAMMA:g}, seed {wishes.seed}: "
        f"{len(splits['train']):,} trajectories for training, {len(splits['validation']):,} for validation, "
        f"{len(splits['test']):,} for test, {points} times in [0, {LV_STOP:g}], noise {noise:g}"
    )
    return SeriesDataset(**splits, note=note, truth=_truth(lotka_volterra_field, starts))


@made_series.register("spiral")
def spiral(wishes: Wishes) -> SeriesDataset:
    """The trajectory of y' = y^3 A from (2, 0) at 1,000 times in [0, 25]: the same in each split, but for its noise."""
    if wishes.series not in (None, 1):
        raise ConfigurationError(f"data.series of 'spiral', which is one trajectory, must be 1, got {wishes.series}")
    points = SPIRAL_POINTS if wishes.points is None else wishes.points
    noise = wishes.noise or 0.0
    times = torch.linspace(0, SPIRAL_STOP, points, dtype=torch.float64)
    first = torch.tensor(SPIRAL_START, dtype=torch.float64)
    exact = _solved(spiral_field, first, times)
    splits = {}
    for number, part in enumerate(PARTS):
        drawn = torch.randn(points, 2, dtype=torch.float64, generator=generator(wishes.seed, number))
        noisy = exact if part == "test" else exact + noise * drawn
        splits[part] = SeriesSet.of(times, noisy[None], features=("x", "y"), ids=[f"{part}-0"])
    note = (
        f"the spiral y' = y^3 A from (2, 0), {points} times in [0, {SPIRAL_STOP:g}], noise {noise:g}; validated and "
        "tested on the same trajectory (test: without noise)"
    )
    starts = dict.fromkeys((f"{part}-0" for part in PARTS), first)
    return SeriesDataset(**splits, note=note, truth=_truth(spiral_field, starts))


def _solved(field: Field, first: Tensor, times: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = odeint(field, first, times, method="dopri8", rtol=TOLERANCE, atol=TOLERANCE)
    return found


def _truth(field: Field, starts: dict[str, Tensor]) -> Truth:
    """Solutions from time 0 at the times of each series: one solve at the times of all."""

    def truth(series: SeriesSet) -> Tensor:
        first = torch.stack([starts[name] for name in series.ids])
        union, place = torch.unique(
            torch.cat([torch.zeros(1, dtype=torch.float64), series.times.flatten()]), return_inverse=True
        )
        found = _solved(field, first, union)
        rows = torch.arange(len(series))[:, None]
        return found[place[1:].reshape(series.times.shape), rows]

    return truth
