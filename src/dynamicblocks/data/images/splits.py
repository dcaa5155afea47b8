"""Images and labels of a part of a data set, wherever they lie."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
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
    """Indices of a part of ``1 - fraction`` and of one of ``fraction``, every class in proportion, sorted.

    The draws are those of scikit-learn's ``train_test_split``, number for number, without its import: it takes nearly
    as long as that of torch.

    Raises:
        ValueError: a class cannot be in both parts.
    """
    held = math.ceil(fraction * len(labels))
    rest = len(labels) - held
    places = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(places)
    if sizes.min() < 2:
        raise ValueError("a class has a single image")
    if min(rest, held) < len(sizes):
        raise ValueError(f"parts of {rest} and {held} images cannot both hold {len(sizes)} classes")
    # RandomState's numbers are promised to stay what they are.
    draws = np.random.RandomState(seed)
    kept = _shares(sizes, rest, draws)
    taken = _shares(sizes - kept, held, draws)
    parts: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for number, (first, second) in enumerate(zip(kept, taken, strict=True)):
        members = np.flatnonzero(places == number)[draws.permutation(sizes[number])]
        parts[0].append(members[:first])
        parts[1].append(members[first : first + second])
    return np.sort(np.concatenate(parts[0])), np.sort(np.concatenate(parts[1]))


def _shares(sizes: NDArray[np.int64], total: int, draws: np.random.RandomState) -> NDArray[np.int64]:
    """``total`` among classes in proportion to their sizes; what rounding leaves goes to the largest fractions.

    Among equal fractions lots are drawn, also where there is one for each.
    """
    exact = sizes / sizes.sum() * total
    shares = np.floor(exact)
    fractions = exact - shares
    for fraction in np.unique(fractions)[::-1]:
        left = total - int(shares.sum())
        if not left:
            break
        equal = np.flatnonzero(fractions == fraction)
        shares[draws.choice(equal, size=min(left, len(equal)), replace=False)] += 1
    return shares.astype(np.int64)
