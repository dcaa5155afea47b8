"""Data sets split into training, validation and test images."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.data.images.augmentation import Augmentation
from dynamicblocks.data.images.catalogue import Where, read_raw
from dynamicblocks.data.images.splits import MemorySplit, Split, stratified
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count

# Most images of a folder from which mean and deviation are estimated.
FOLDER_SAMPLE = 1000


@dataclass(frozen=True)
class ImageDataset:
    """A data set in three splits.

    Training decides on the validation split, which is cut from the training images; the test split is read at the end.

    Args:
        name: under which it is registered.
        classes: their names.
        train, validation, test: the splits.
        mean, std: of the training images, for each channel, in units of pixel values.
        note: where the images come from and how they were split, for the record of a run.
        augmentation: the random changes that are usual for its training images.
        white: the highest value of a pixel.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str
    augmentation: Augmentation
    white: int = 255

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.train.channels


def load_dataset(
    name: str,
    validation: float = 0.1,
    split_seed: int = 0,
    *,
    data_dir: str | None = None,
    size: int | None = None,
    train_images: int | None = None,
) -> ImageDataset:
    """The data set of that name, with a stratified validation split cut from its training images.

    Args:
        name: digits, mnist, fashion-mnist, cifar10, cifar100, stl10 or imagefolder:PATH.
        validation: share of the training images to hold out, in (0, 1).
        split_seed: which images those are; independent of the seed of a training.
        data_dir: folder of a local copy in the official layout; None for the cache, and a download to it.
        size: side of the images of a folder.
        train_images: train on so many of the images that are left, a list that the split seed fixes; None for all.

    Raises:
        ConfigurationError: an unknown name, or a share or number of images that does not work.
        StorageError: a file is missing, damaged, or cannot be downloaded.

    >>> data = load_dataset("digits")
    >>> len(data.train), len(data.validation), len(data.test)
    (1293, 144, 360)
    """
    if not 0 < validation < 1:
        raise ConfigurationError(f"validation, a share of the training images, must be in (0, 1), got {validation}")
    raw = read_raw(name, Where(data_dir, size))
    train, held_out, how = raw.train, raw.validation, "validation images of its own"
    indices = np.arange(len(train))
    if held_out is None:
        try:
            indices, held = stratified(raw.train.labels.numpy(), validation, split_seed)
        except ValueError as error:
            raise ConfigurationError(
                f"cannot hold out {validation} of {len(raw.train)} images of {name} with all {len(raw.classes)} "
                f"classes in both parts: {error}"
            ) from error
        train, held_out = (raw.train.select(torch.from_numpy(part)) for part in (indices, held))
        how = f"validation: {len(held_out)} training images, stratified, split seed {split_seed}"
    if train_images is not None:
        places, listed = some_of(indices, train_images, split_seed)
        train = train.select(torch.from_numpy(places))
        how += f"; trained on {listed}"
    mean, std = moments(train)
    note = f"{raw.note}; {len(train):,} training and {len(raw.test):,} test images; {how}"
    return ImageDataset(name, raw.classes, train, held_out, raw.test, mean, std, note, raw.augmentation, raw.white)


def some_of(indices: NDArray[np.int64], count: int, seed: int) -> tuple[NDArray[np.int64], str]:
    """The places of the first ``count`` of a fixed order, and what the record of a run says of that list."""
    if check_count(count, "data.train_images") > len(indices):
        raise ConfigurationError(f"data.train_images must be at most the {len(indices)} training images, got {count}")
    # RandomState's numbers are promised to stay what they are.
    places = np.random.RandomState(seed).permutation(len(indices))[:count]
    digest = hashlib.sha256(indices[places].astype("<i8").tobytes()).hexdigest()[:16]
    return places, f"{count:,} of {len(indices):,} training images, split seed {seed}, list {digest}"


def moments(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over all images (of a folder: over a sample)."""
    step = 1 if isinstance(split, MemorySplit) else math.ceil(len(split) / FOLDER_SAMPLE)
    return moments_of(split.stream(list(torch.split(torch.arange(0, len(split), step), 1000))), split.channels)


def moments_of(batches: Iterable[Tensor], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the first channels of uint8 images (n, channels or more, height, width).

    From the counts of the 256 pixel values, which are exact and small.
    """
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for images in batches:
        for channel in range(channels):
            counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
    values, total = torch.arange(256, dtype=torch.float64), counts.sum(dim=1)
    mean = counts @ values / total
    variance = counts @ values.square() / total - mean.square()
    std = torch.sqrt(variance.clamp(min=0))
    # A channel that never changes carries nothing; it must not become NaN.
    return tuple(mean.tolist()), tuple(torch.where(std > 0, std, torch.ones_like(std)).tolist())
