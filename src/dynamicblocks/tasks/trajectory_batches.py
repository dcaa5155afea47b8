"""Trajectories as batches of any number of steps an epoch: there may be one alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from dynamicblocks.sampling import Sampling
from dynamicblocks.tasks.dynamics_net import TrajectoryBatch
from dynamicblocks.training.task import Place


@dataclass(frozen=True)
class TrajectoryBatches:
    """Batches of trajectories that lie in memory.

    Args:
        all: of the split, on the device.
        batch_size: trajectories in a step of training, over all processes.
        steps: of an epoch; the trajectories are gone through as often as that takes.
        place: who needs the batches, and its seed.
        evaluation_size: trajectories in a batch of evaluation; by default as in training.
    """

    all: TrajectoryBatch
    batch_size: int
    steps: int
    place: Place
    evaluation_size: int | None = None
    _sampling: Sampling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        place = self.place
        sampling = Sampling(self.samples, self.batch_size, self.evaluation_size, place.seed, place.rank, place.world)
        object.__setattr__(self, "_sampling", sampling)

    @property
    def samples(self) -> int:
        """Trajectories of the split."""
        return len(self.all.times)

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[TrajectoryBatch]:
        """The batches of an epoch, from ``first_step`` on; which, is decided by (seed, epoch, step)."""
        for _, rows in self._sampling.rounds(self.steps, epoch, first_step):
            yield self._rows(self._sampling.mine(rows), progress)

    def evaluation(self) -> Iterator[TrajectoryBatch]:
        """The trajectories in order, each once; this process's share of them."""
        for rows in self._sampling.evaluation():
            yield self._rows(rows, 1.0)

    def _rows(self, rows: torch.Tensor, progress: float) -> TrajectoryBatch:
        found = self.all.select(rows.to(self.all.times.device))
        return found._replace(progress=found.progress * progress)
