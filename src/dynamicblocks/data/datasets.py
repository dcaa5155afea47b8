"""Image data sets by name, split into training, validation and test images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.registry import Registry


@dataclass(frozen=True)
class Split:
    """Images (N, channels, height, width) as uint8 and labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


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
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.train.images.shape[1]


Loader = Callable[[], tuple[Split, Split, tuple[str, ...], str]]
"""What a data set registers: training images, test images, class names and a note on their origin."""

datasets: Registry[tuple[Split, Split, tuple[str, ...], str]] = Registry("data set")

# The digits come without a test set of their own; this split of them is the project's, and never changes.
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of a part of ``1 - fraction`` and of one of ``fraction``, every class in proportion, sorted."""
    rest, part = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    return np.sort(rest), np.sort(part)


@datasets.register("digits")
def digits() -> tuple[Split, Split, tuple[str, ...], str]:
    """1,797 handwritten digits of 8 x 8 pixels with 17 grey levels, shipped with scikit-learn."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = stratified(labels.numpy(), DIGITS_TEST_FRACTION, DIGITS_TEST_SEED)
    note = "scikit-learn's digits (1,797 images, 8 x 8), 20 % test images by a fixed stratified split"
    names = tuple(str(name) for name in bunch.target_names)
    return Split(images[train], labels[train]), Split(images[test], labels[test]), names, note


def load_dataset(name: str, validation: float = 0.1, split_seed: int = 0) -> ImageDataset:
    """The data set of that name, with a stratified validation split cut from its training images.

    Args:
        name: one of the registered data sets.
        validation: share of the training images to hold out, in (0, 1).
        split_seed: which images those are; independent of the seed of a training.

    >>> data = load_dataset("digits")
    >>> len(data.train), len(data.validation), len(data.test)
    (1293, 144, 360)
    """
    if not 0 < validation < 1:
        raise ConfigurationError(f"validation, a share of the training images, must be in (0, 1), got {validation}")
    whole, test, classes, note = datasets.create(name)
    try:
        kept, held = stratified(whole.labels.numpy(), validation, split_seed)
    except ValueError as error:
        raise ConfigurationError(
            f"cannot hold out {validation} of {len(whole)} images of {name} with all {len(classes)} classes in both "
            f"parts: {error}"
        ) from error
    train, held_out = (Split(whole.images[index], whole.labels[index]) for index in (kept, held))
    pixels = train.images.double()
    return ImageDataset(
        name=name,
        classes=classes,
        train=train,
        validation=held_out,
        test=test,
        mean=tuple(pixels.mean(dim=(0, 2, 3)).tolist()),
        std=tuple(pixels.std(dim=(0, 2, 3)).tolist()),
        note=f"{note}; validation: {len(held_out)} training images, stratified, split seed {split_seed}",
    )
