"""Batches of tensors that lie in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count
from dynamicblocks.training.task import Place


@dataclass(frozen=True)
class TensorBatches:
    """Batches that are plain tuples: the same rows of each of some tensors.

    Args:
        tensors: one or more, the samples along the first dimension of each.
        batch_size: samples in a step of training, over all processes.
        place: where the batches are needed; floating-point tensors get its type, and its seed shuffles.
        evaluation_size: samples in a batch of evaluation; by default as in training.

    Raises:
        ConfigurationError: the tensors differ in the number of samples or have none, or a size cannot be.
    """

    tensors: tuple[Tensor, ...]
    batch_size: int
    place: Place = field(default_factory=Place)
    evaluation_size: int | None = None

    def __post_init__(self) -> None:
        check_count(self.batch_size, "batch_size")
        if self.evaluation_size is not None:
            check_count(self.evaluation_size, "evaluation_size")
        if self.batch_size % self.place.world:
            raise ConfigurationError(f"batch_size {self.batch_size} must be a multiple of {self.place.world} processes")
        object.__setattr__(self, "tensors", tuple(self._there(tensor) for tensor in checked(self.tensors)))

    def _there(self, tensor: Tensor) -> Tensor:
        dtype = self.place.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(self.place.device, dtype)

    @property
    def samples(self) -> int:
        """Samples of the split."""
        return len(self.tensors[0])

    @property
    def steps(self) -> int:
        """Full batches in an epoch (one, smaller, if the split is smaller than a batch)."""
        return max(1, self.samples // self.batch_size)

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch in random order, from ``first_step`` on, without a last partial one."""
        place = self.place
        if self.samples < place.world:
            raise ConfigurationError(
                f"{self.samples} samples cannot be shared by {place.world} processes: give more data or fewer devices"
            )
        order = torch.randperm(self.samples, generator=generator(place.seed, epoch)).to(place.device)
        for step in range(first_step, self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self._rows(batch[place.rank :: place.world])

    def evaluation(self) -> Iterator[tuple[Tensor, ...]]:
        """The samples in order, each once; this process's share of them."""
        mine = torch.arange(self.place.rank, self.samples, self.place.world, device=self.place.device)
        if len(mine):  # there may be fewer samples than processes
            yield from map(self._rows, torch.split(mine, self.evaluation_size or self.batch_size))

    def _rows(self, rows: Tensor) -> tuple[Tensor, ...]:
        chosen = (tensor[rows] for tensor in self.tensors)
        return tuple(
            each.contiguous(memory_format=torch.channels_last)
            if self.place.channels_last and each.ndim == 4 and each.is_floating_point()
            else each
            for each in chosen
        )


def checked(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors, or an error: one or more, with the same number of samples, at least one."""
    if not isinstance(tensors, tuple | list) or not tensors or not all(isinstance(each, Tensor) for each in tensors):
        raise ConfigurationError(f"batches are made of a tuple of tensors, got {type_of(tensors)}")
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if any(shape[:1] != shapes[0][:1] for shape in shapes) or not shapes[0] or not shapes[0][0]:
        raise ConfigurationError(
            "the first dimension of each tensor is that of the samples, of the same size in all and at least 1; "
            f"got the shapes {', '.join(map(str, shapes))}"
        )
    return tuple(tensors)


def type_of(given: object) -> str:
    """What something is, in a word, and if it is a sequence what it holds."""
    name = type(given).__name__
    return f"{name} of {[type(each).__name__ for each in given]}" if isinstance(given, tuple | list) else name
