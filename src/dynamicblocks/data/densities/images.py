"""Images as points: whole pixel values, all of one size, with their class as context if wanted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dynamicblocks.data.densities.points import DensityDataset, PointSet
from dynamicblocks.data.images.datasets import ImageDataset, load_dataset
from dynamicblocks.data.images.decoding import header_of, read_image
from dynamicblocks.data.images.files import LeftOut, find_files
from dynamicblocks.data.images.splits import MemorySplit, Split
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.memory import check_memory
from dynamicblocks.visible import legible

IMAGES = ("digits", "mnist", "fashion-mnist", "cifar10")
FOLDER = "images"
LABEL = "label"
# Of 8 bits.
LEVELS = 256


def named_images(
    name: str, *, context: Sequence[str], validation: float, seed: int, data_dir: str | None
) -> DensityDataset:
    """The images of a data set of that name, its own test images apart.

    Args:
        name: one of :data:`IMAGES`.
        context: nothing, or ``label``: the class of an image, one-hot.
        validation: share of the training images that is held out.
        seed: which images those are.
        data_dir: a local copy.

    Raises:
        ConfigurationError: another context is asked for.
        StorageError: a file is missing, damaged, or cannot be downloaded.
    """
    check_context(context)
    found = load_dataset(name, validation, seed, data_dir=data_dir)
    train, kept, tested = (_points(each, found, bool(context)) for each in (found.train, found.validation, found.test))
    return DensityDataset(train, kept, tested, found.note)


def check_context(context: Sequence[str]) -> None:
    """Raise unless the context is nothing, or the label."""
    if tuple(context) not in ((), (LABEL,)):
        raise ConfigurationError(
            f"data.context of such data is {LABEL}, the class of a point, or nothing; got {', '.join(context)}"
        )


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(n, classes) of zeros and a one in each row, float64."""
    return functional.one_hot(labels, classes).double()


def _points(split: Split, data: ImageDataset, labelled: bool) -> PointSet:
    assert isinstance(split, MemorySplit)
    return PointSet.of(
        split.images,
        one_hot(split.labels, len(data.classes)) if labelled else None,
        context_names=tuple(f"{LABEL}={name}" for name in data.classes) if labelled else None,
        levels=data.white + 1,
    )


def folder_of_images(folder: Path) -> PointSet:
    """The images in a folder and the folders in it, which are all of one size.

    Raises:
        StorageError: there is no such folder, or no image in it, or one cannot be read.
        ConfigurationError: two are of different sizes; the message names them.
    """
    if not folder.is_dir():
        raise StorageError(f"there is no folder {legible(folder)}")
    left_out = LeftOut(folder)
    paths = find_files(folder, left_out)
    if not paths:
        others = f"; left out: {left_out}" if left_out.found else ""
        raise StorageError(f"there is no image in {legible(folder)}{others}")
    headers = [header_of(path) for path in paths]
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        if (header.width, header.height) != (first.width, first.height):
            raise ConfigurationError(
                f"images of one density are of one size: {legible(paths[0])} has {first.width} x {first.height} "
                f"pixels and {legible(path)} {header.width} x {header.height}; resize them"
            )
    channels = 1 if all(header.grey for header in headers) else 3
    check_memory(8 * len(paths) * channels * first.width * first.height, f"the images of {legible(folder)}")
    return PointSet.of(torch.from_numpy(np.stack([read_image(path, channels) for path in paths])), levels=LEVELS)
