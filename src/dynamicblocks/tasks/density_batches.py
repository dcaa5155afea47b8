"""Points as batches of any number of steps an epoch, each with a seed of what is drawn in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicblocks.draws import generator
from dynamicblocks.sampling import Sampling
from dynamicblocks.training.task import Place

# What tells the draws of an evaluation from those of all epochs.
EVALUATION = 2**31 - 1
MOST_SEEDS = 2**62


class PointBatch(NamedTuple):
    """Points as the network sees them, in data units.

    Args:
        points: (n, *shape).
        context: (n, c), of no columns where there is none.
        seed: (), int64, on the CPU: of noise, times, probes and dequantisation of this batch.
    """

    points: Tensor
    context: Tensor
    seed: Tensor

    def select(self, rows: Tensor | slice) -> "PointBatch":
        """Some of the points."""
        return self._replace(points=self.points[rows], context=self.context[rows])


@dataclass(frozen=True)
class PointBatches:
    """Batches of points that lie in memory.

    What is drawn in a step of training follows from (seed, epoch, step), as which points it sees; in evaluation from
    the number of the batch, so that figures can be told again.

    Args:
        points: (n, *shape), of the split.
        context: (n, c).
        batch_size: points in a step of training, over all processes.
        steps: of an epoch; the points are gone through as often as that takes.
        place: who needs the batches, and its seed.
        evaluation_size: points in a batch of evaluation; by default as in training.
    """

    points: Tensor
    context: Tensor
    batch_size: int
    steps: int
    place: Place
    evaluation_size: int | None = None
    _sampling: Sampling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        place = self.place
        sampling = Sampling(self.samples, self.batch_size, self.evaluation_size, place.seed, place.rank, place.world)
        object.__setattr__(self, "_sampling", sampling)
        for name in ("points", "context"):
            object.__setattr__(self, name, getattr(self, name).to(place.device, place.dtype))

    @property
    def samples(self) -> int:
        """Points of the split."""
        return len(self.points)

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[PointBatch]:
        """The batches of an epoch, from ``first_step`` on."""
        for step, rows in self._sampling.rounds(self.steps, epoch, first_step):
            yield self._rows(self._sampling.mine(rows), epoch, step)

    def evaluation(self) -> Iterator[PointBatch]:
        """The points in order, each once; this process's share of them."""
        for number, rows in enumerate(self._sampling.evaluation()):
            yield self._rows(rows, EVALUATION, number)

    def _rows(self, rows: Tensor, epoch: int, step: int) -> PointBatch:
        place = self.place
        # An evaluation draws the same whatever the training was seeded with.
        key = (0 if epoch == EVALUATION else place.seed, epoch, step, place.rank)
        seed = torch.randint(MOST_SEEDS, (), generator=generator(*key))
        there = rows.to(place.device)
        return PointBatch(self.points[there], self.context[there], seed)
