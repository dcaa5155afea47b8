"""Images with their masks, wherever they lie."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.data.images.decoding import Pixels, read_image
from dynamicblocks.data.images.loading import loaded
from dynamicblocks.data.segmentation.masks import Pair, read_mask

CPU = torch.device("cpu")


class Pairs(ABC):
    """Images and masks of a split; in batches as uint8 (n, channels + 1, height, width), the mask behind the image."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the images."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The split with the pairs it streams on a device."""

    def with_workers(self, workers: int) -> Self:
        """The split read by so many processes; 0 for this one. Where it lies in memory, nothing is read."""
        return self

    @abstractmethod
    def select(self, indices: Tensor) -> Self:
        """The part with these indices, in this order."""

    @abstractmethod
    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pairs of each of several batches of indices, in order."""


@dataclass(frozen=True)
class MemoryPairs(Pairs):
    """Pairs that lie in memory, or on the device."""

    stacked: Tensor

    def __len__(self) -> int:
        return len(self.stacked)

    @property
    def channels(self) -> int:
        return self.stacked.shape[1] - 1

    def to(self, device: torch.device) -> "MemoryPairs":
        return MemoryPairs(self.stacked.to(device))

    def select(self, indices: Tensor) -> "MemoryPairs":
        return MemoryPairs(self.stacked[indices])

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for batch in batches:
            yield self.stacked[batch.to(self.stacked.device)]


@dataclass(frozen=True)
class FolderPairs(Pairs):
    """Pairs of files that are read when they are needed.

    Args:
        paths: of the images and masks.
        grey: whether the images have one channel, else three.
        size: side of the squares that are made of them; None where they are used as they are.
        workers: processes that read; 0 for this one.
        device: where they are needed.
    """

    paths: tuple[Pair, ...]
    grey: bool
    size: int | None = None
    workers: int = 0
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    def to(self, device: torch.device) -> "FolderPairs":
        return replace(self, device=device)

    def with_workers(self, workers: int) -> "FolderPairs":
        return replace(self, workers=workers)

    def select(self, indices: Tensor) -> "FolderPairs":
        return replace(self, paths=tuple(self.paths[index] for index in indices.tolist()))

    def read(self, index: int) -> Pixels:
        """One pair (channels + 1, height, width)."""
        image, mask = self.paths[index]
        return np.concatenate([read_image(image, self.channels, self.size), read_mask(mask, self.size)[None]])

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        yield from loaded(self.read, batches, self.workers, self.device)
