"""Images and labels of a part of a data set, wherever they lie."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor


class Split(ABC):
    """Labels (N,) as int64, and images that come in batches as uint8 (n, channels, height, width)."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the images."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The split with its labels, and the images it streams, on a device."""

    def with_workers(self, workers: int) -> Self:
        """The split read by so many processes, where it lies in files; what is read does not depend on them."""
        return self

    @abstractmethod
    def select(self, indices: Tensor) -> Self:
        """The part with these indices, in this order."""

    @abstractmethod
    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images of each of several batches of indices, in order."""


@dataclass(frozen=True)
class MemorySplit(Split):
    """Images that lie in memory, or on the device: uint8 (N, channels, height, width)."""

    images: Tensor
    labels: Tensor

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def to(self, device: torch.device | str) -> "MemorySplit":
        return MemorySplit(self.images.to(device), self.labels.to(device))

    def select(self, indices: Tensor) -> "MemorySplit":
        indices = indices.to(self.labels.device)
        return MemorySplit(self.images[indices], self.labels[indices])

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for batch in batches:
            yield self.images[batch.to(self.images.device)]


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of a part of ``1 - fraction`` and of one of ``fraction``, every class in proportion, sorted."""
    rest, part = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    return np.sort(rest), np.sort(part)
