"""Which samples are in which batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count


@dataclass(frozen=True)
class Sampling:
    """The batches of a split, by the indices of its samples: decided by (seed, epoch, step), whoever asks and when.

    Args:
        samples: of the split.
        batch_size: samples in a step of training, over all processes.
        evaluation_size: samples in a batch of evaluation; None for ``batch_size``.
        seed: of the order.
        rank, world: this process and the number of processes; each takes its share of every batch.

    Raises:
        ConfigurationError: a size is no number of samples, or processes cannot share it equally.

    >>> [batch.tolist() for batch in Sampling(5, batch_size=2, rank=1, world=2).evaluation()]
    [[1, 3]]
    """

    samples: int
    batch_size: int
    evaluation_size: int | None = None
    seed: int = 0
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        check_count(self.batch_size, "batch_size")
        if self.evaluation_size is not None:
            check_count(self.evaluation_size, "evaluation_size")
        if self.batch_size % self.world:
            raise ConfigurationError(f"batch_size {self.batch_size} must be a multiple of {self.world} processes")

    @property
    def steps(self) -> int:
        """Full batches in an epoch (one, smaller, if the split is smaller than a batch)."""
        return max(1, self.samples // self.batch_size)

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        mine = len(range(self.rank, self.samples, self.world))
        return -(-mine // (self.evaluation_size or self.batch_size))

    def training(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The steps of an epoch from ``first_step`` on, each with its whole batch, without a last partial one.

        Raises:
            ConfigurationError: some processes would have nothing.
        """
        if self.samples < self.world:
            raise ConfigurationError(
                f"{self.samples} samples cannot be shared by {self.world} processes: give more data or fewer devices"
            )
        order = torch.randperm(self.samples, generator=generator(self.seed, epoch))
        for step in range(first_step, self.steps):
            yield step, order[step * self.batch_size : (step + 1) * self.batch_size]

    def rounds(self, steps: int, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Tensor]]:
        """The same for an epoch of so many steps: the samples are gone through as often as that takes.

        >>> [step for step, _ in Sampling(4, batch_size=2).rounds(5, epoch=1, first_step=2)]
        [2, 3, 4]
        """
        step = first_step
        while step < steps:
            round_, place = divmod(epoch * steps + step, self.steps)
            for _, batch in self.training(round_, place):
                yield step, batch
                step += 1
                if step == steps:
                    return

    def mine(self, batch: Tensor) -> Tensor:
        """The share of this process of a batch, or of what belongs to it."""
        return batch[self.rank :: self.world]

    def evaluation(self) -> list[Tensor]:
        """The share of this process of the samples, each once and in order; perhaps none."""
        mine = torch.arange(self.rank, self.samples, self.world)
        return list(torch.split(mine, self.evaluation_size or self.batch_size)) if len(mine) else []
