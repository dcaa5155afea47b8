"""Batches of a split that lives on the device: shuffled, augmented and normalised there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamicblocks.data.datasets import Split
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_amount, check_count


def generator(*key: int) -> torch.Generator:
    """A random generator on the CPU whose draws depend on ``key`` alone."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64).item()
    return torch.Generator().manual_seed(seed)


def shifted(images: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Each image moved by up to ``most`` pixels in both directions, zeros moving in."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=draw).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def turned(images: Tensor, degrees: float, scale: float, draw: torch.Generator) -> Tensor:
    """Each image turned by up to ``degrees`` and scaled by up to a factor ``1 + scale``, about its centre; as floats.

    Values between pixels are bilinear, those beyond the border zero.
    """
    angle, size = torch.rand(2, len(images), generator=draw).to(images.device) * 2 - 1
    angle = torch.deg2rad(angle * degrees)
    # The map goes from the new image to the old one, hence the inverse of the magnification.
    size = (1 + scale) ** -size
    cosine, sine, zero = size * torch.cos(angle), size * torch.sin(angle), torch.zeros_like(size)
    maps = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Batches:
    """Normalised batches of a split.

    What a training sees is decided by (seed, epoch, step) alone, so a resumed run sees what it would have seen.

    Args:
        split: the images and labels, on the device where they are used.
        batch_size: images in a step, over all processes.
        mean, std: of pixel values, for each channel.
        seed: of shuffling and augmentation.
        shift: most pixels by which training images are moved.
        turn: most degrees by which they are turned.
        scale: most by which they are magnified or shrunk, as a share of their size.
        rank, world: this process and the number of processes; each takes its share of every batch.
    """

    split: Split
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    seed: int = 0
    shift: int = 0
    turn: float = 0.0
    scale: float = 0.0
    rank: int = 0
    world: int = 1
    _affine: tuple[Tensor, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count(self.batch_size, "batch_size")
        check_count(self.shift, "shift", least=0)
        check_amount(self.turn, "turn")
        check_amount(self.scale, "scale")
        if self.batch_size % self.world:
            raise ConfigurationError(f"batch_size {self.batch_size} must be a multiple of {self.world} processes")
        device = self.split.images.device
        mean, std = (torch.tensor(value, device=device).view(-1, 1, 1) for value in (self.mean, self.std))
        object.__setattr__(self, "_affine", (mean, 1 / std))

    @property
    def steps(self) -> int:
        """Full batches in an epoch (one, if the split is smaller than a batch)."""
        return max(1, len(self.split) // self.batch_size)

    def normalised(self, images: Tensor) -> Tensor:
        """Pixel values as floats of mean zero and variance one over the training images."""
        mean, scale = self._affine
        return (images.float() - mean) * scale

    def training(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch in random order, augmented, from ``first_step`` on, without a last partial one."""
        order = torch.randperm(len(self.split), generator=generator(self.seed, epoch))
        for step in range(first_step, self.steps):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            # Augmentation is drawn for the whole batch, so that it does not depend on the number of processes.
            images = self.split.images[batch.to(self.split.images.device)]
            draw = generator(self.seed, epoch, step)
            if self.shift:
                images = shifted(images, self.shift, draw)
            if self.turn or self.scale:
                images = turned(images, self.turn, self.scale, draw)
            labels = self.split.labels[batch.to(self.split.labels.device)]
            yield self.normalised(images[self.rank :: self.world]), labels[self.rank :: self.world]

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images in order, as they are; this process's share of them."""
        mine = slice(self.rank, None, self.world)
        images, labels = self.split.images[mine], self.split.labels[mine]
        for first in range(0, len(labels), self.batch_size):
            part = slice(first, first + self.batch_size)
            yield self.normalised(images[part]), labels[part]
