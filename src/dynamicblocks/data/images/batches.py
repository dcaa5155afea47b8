"""Batches of a split: shuffled, augmented and normalised on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.data.images.augmentation import Augmentation, resized
from dynamicblocks.data.images.splits import Split
from dynamicblocks.draws import generator
from dynamicblocks.sampling import Sampling

Affine = tuple[Tensor, Tensor]
"""What is taken from pixel values, and what they are multiplied with, for each channel."""


def affine_of(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Affine:
    """What brings pixel values of this mean and deviation to mean zero and variance one."""
    first, second = (torch.tensor(value, device=device).view(-1, 1, 1) for value in (mean, std))
    return first, 1 / second


def normalised(images: Tensor, affine: Affine) -> Tensor:
    """Pixel values as a network is given them."""
    mean, scale = affine
    return (images.float() - mean) * scale


@dataclass(frozen=True)
class ImageBatches:
    """Normalised batches of a split.

    What a training sees is decided by (seed, epoch, step) alone, so a resumed run sees what it would have seen.

    Args:
        split: the images and labels, on the device where they are used.
        batch_size: images in a step, over all processes.
        mean, std: of pixel values, for each channel.
        seed: of shuffling and augmentation.
        augmentation: random changes of training images.
        evaluation_size: images in a step of evaluation, over all processes; None for ``batch_size``.
        progressive: smaller images at first: pairs of the share of the training from which on training images have
            that many pixels on their shorter side.
        channels_last: whether batches are stored channels last.
        rank, world: this process and the number of processes; each takes its share of every batch.
    """

    split: Split
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    evaluation_size: int | None = None
    progressive: Sequence[tuple[float, int]] = ()
    channels_last: bool = False
    rank: int = 0
    world: int = 1
    _affine: Affine = field(init=False, repr=False, compare=False)
    _sampling: Sampling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sampling = Sampling(len(self.split), self.batch_size, self.evaluation_size, self.seed, self.rank, self.world)
        object.__setattr__(self, "_sampling", sampling)
        device = self.split.labels.device
        object.__setattr__(self, "_affine", affine_of(self.mean, self.std, device))

    @property
    def steps(self) -> int:
        """Full batches in an epoch (one, if the split is smaller than a batch)."""
        return self._sampling.steps

    @property
    def samples(self) -> int:
        """Images of the split."""
        return len(self.split)

    def normalised(self, images: Tensor, side: int | None = None) -> Tensor:
        """Floats of mean zero and variance one over the training images, in the memory format and size asked."""
        images = normalised(images, self._affine)
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        return (images if side is None else resized(images, side)).contiguous(memory_format=memory_format)

    @property
    def evaluation_steps(self) -> int:
        """Batches in an evaluation, those of this process."""
        return self._sampling.evaluation_steps

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch in random order, augmented, from ``first_step`` on, without a last partial one.

        ``progress``, the share of the training that lies before the epoch, decides on the size of the images.
        """
        side = next((pixels for share, pixels in reversed(self.progressive) if share <= progress), None)
        chosen = list(self._sampling.training(epoch, first_step))
        stream = self.split.stream([batch for _, batch in chosen])
        for (step, batch), images in zip(chosen, stream, strict=True):
            # Augmentation is drawn for the whole batch, so that it does not depend on the number of processes.
            images = self.augmentation.apply(images, generator(self.seed, epoch, step))
            labels = self.split.labels[batch.to(self.split.labels.device)]
            yield self.normalised(self._sampling.mine(images), side), self._sampling.mine(labels)

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in order, as they are; this process's share of them."""
        batches = self._sampling.evaluation()
        for batch, images in zip(batches, self.split.stream(batches), strict=True):
            yield self.normalised(images), self.split.labels[batch.to(self.split.labels.device)]
