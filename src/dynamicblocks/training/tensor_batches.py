"""Batches of tensors that lie in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sampling import Sampling
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
    _sampling: Sampling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tensors, place = checked(self.tensors), self.place
        sampling = Sampling(len(tensors[0]), self.batch_size, self.evaluation_size, place.seed, place.rank, place.world)
        object.__setattr__(self, "_sampling", sampling)
        object.__setattr__(self, "tensors", tuple(self._there(tensor) for tensor in tensors))

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
        return self._sampling.steps

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch in random order, from ``first_step`` on, without a last partial one."""
        for _, batch in self._sampling.training(epoch, first_step):
            yield self._rows(self._sampling.mine(batch))

    def evaluation(self) -> Iterator[tuple[Tensor, ...]]:
        """The samples in order, each once; this process's share of them."""
        yield from map(self._rows, self._sampling.evaluation())

    def _rows(self, rows: Tensor) -> tuple[Tensor, ...]:
        rows = rows.to(self.place.device)
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
