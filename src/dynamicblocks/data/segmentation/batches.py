"""Batches of images and masks: shuffled, augmented and normalised on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.data.segmentation.augmentation import PairAugmentation
from dynamicblocks.data.segmentation.pairs import Pairs
from dynamicblocks.draws import generator
from dynamicblocks.sampling import Sampling


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Pixel values of this mean and deviation as a network is given them."""
    first, second = (torch.tensor(each, dtype=dtype, device=images.device).view(-1, 1, 1) for each in (mean, std))
    return (images.to(dtype) - first) / second


@dataclass(frozen=True)
class PairBatches:
    """Normalised images (n, channels, height, width) with their masks (n, height, width) as int64.

    What a training sees is decided by (seed, epoch, step) alone, so a resumed run sees what it would have seen.

    Args:
        split: the pairs, on the device where they are used.
        batch_size: images in a step, over all processes.
        mean, std: of pixel values, for each channel.
        seed: of shuffling and augmentation.
        augmentation: random changes of training pairs.
        evaluation_size: images in a step of evaluation; None for ``batch_size``.
        dtype: of the images.
        channels_last: whether images are stored channels last.
        rank, world: this process and the number of processes; each takes its share of every batch.
    """

    split: Pairs
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0
    augmentation: PairAugmentation = field(default_factory=PairAugmentation)
    evaluation_size: int | None = None
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    rank: int = 0
    world: int = 1
    _sampling: Sampling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sampling = Sampling(len(self.split), self.batch_size, self.evaluation_size, self.seed, self.rank, self.world)
        object.__setattr__(self, "_sampling", sampling)

    @property
    def steps(self) -> int:
        """Full batches in an epoch (one, smaller, if the split is smaller than a batch)."""
        return self._sampling.steps

    @property
    def samples(self) -> int:
        """Images of the split."""
        return len(self.split)

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch in random order, augmented, from ``first_step`` on, without a last partial one."""
        chosen = list(self._sampling.training(epoch, first_step))
        for (step, _), pairs in zip(chosen, self.split.stream([batch for _, batch in chosen]), strict=True):
            # Changes are drawn for the whole batch, so that they do not depend on the number of processes.
            changed = self.augmentation.apply(pairs, generator(self.seed, epoch, step))
            yield self.parted(self._sampling.mine(changed))

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The pairs in order, as they are; this process's share of them."""
        yield from map(self.parted, self.split.stream(self._sampling.evaluation()))

    def parted(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Images of mean zero and variance one over the training images, and masks."""
        images = normalised(pairs[:, :-1], self.mean, self.std, self.dtype)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=memory_format), pairs[:, -1].long()
