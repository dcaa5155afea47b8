"""Batches of what lies in memory, of any number of steps an epoch: there may be few samples, or one alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from dynamicblocks.sampling import Sampling
from dynamicblocks.training.task import Place

Batch = TypeVar("Batch")


class Moment(NamedTuple):
    """When a batch is made.

    Args:
        epoch: of training; None in an evaluation.
        step: of the epoch, or of the evaluation.
        progress: of the training, from 0 to 1; 1 in an evaluation.
    """

    epoch: int | None
    step: int
    progress: float


@dataclass(frozen=True)
class Rounds(Generic[Batch]):
    """Batches that a function makes of the places of their samples; which those are is decided by (seed, epoch, step).

    Args:
        samples: of the split.
        make: a batch, of the places of its samples (n,), on the CPU, and of the moment.
        batch_size: samples in a step of training, over all processes.
        steps: of an epoch; the samples are gone through as often as that takes.
        place: who needs the batches, and its seed.
        evaluation_size: samples in a batch of evaluation; by default as in training.
    """

    samples: int
    make: Callable[[Tensor, Moment], Batch]
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
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[Batch]:
        """The batches of an epoch, from ``first_step`` on."""
        for step, rows in self._sampling.rounds(self.steps, epoch, first_step):
            yield self.make(self._sampling.mine(rows), Moment(epoch, step, progress))

    def evaluation(self) -> Iterator[Batch]:
        """The samples in order, each once; this process's share of them."""
        for step, rows in enumerate(self._sampling.evaluation()):
            yield self.make(rows, Moment(None, step, 1.0))
