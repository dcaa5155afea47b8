"""What predictions are asked of: files, arrays and tensors, checked and brought to the units of the training."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from dynamicblocks.data.fields.files import read_inputs
from dynamicblocks.data.images.decoding import read_image
from dynamicblocks.data.images.files import IMAGE_ENDINGS, LeftOut, find_files
from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, StorageError
from dynamicblocks.tasks.facts import BYTE, FieldFacts, ImageFacts
from dynamicblocks.training.predicting import tensor_of, together
from dynamicblocks.visible import legible

PATHS = (str, bytes, os.PathLike)
FIELD_ENDINGS = (".npz",)


def files_of(x: Any, endings: Sequence[str]) -> list[Path] | None:
    """The files that are meant: a path, several, those in a folder; None where ``x`` holds numbers.

    Raises:
        StorageError: one is not there, or a folder holds none.
        ConfigurationError: there are none.
    """
    if isinstance(x, PATHS):
        x = [x]
    if not isinstance(x, (list, tuple)) or not all(isinstance(each, PATHS) for each in x):
        return None
    files: list[Path] = []
    for each in x:
        name = os.fsdecode(each)
        # Those of pathlib raise where these give False, as of names that are too long, and take none for a folder.
        if os.path.isdir(name):  # noqa: PTH112
            files += files_in(Path(name), endings)
        elif os.path.isfile(name):  # noqa: PTH113
            files.append(Path(name))
        else:
            # A pipe would be waited for.
            there = os.path.exists(name)  # noqa: PTH110
            raise StorageError(f"{legible(name)!r} is no file" if there else f"there is no file {legible(name)!r}")
    if not files:
        raise ConfigurationError("x must name at least one file, got an empty list")
    return files


def files_in(folder: Path, endings: Sequence[str]) -> tuple[Path, ...]:
    """The files of these endings in a folder and the folders in it, in the order of their paths; hidden ones left out.

    Raises:
        StorageError: there is none.
    """
    found = find_files(folder, LeftOut(folder), endings)
    if not found:
        raise StorageError(f"the folder {legible(folder)} holds no file that could be read ({', '.join(endings)})")
    return found


@dataclass(frozen=True)
class GivenImages:
    """Images, from files or from numbers.

    Args:
        known: of the images of the training.
        files: where they lie; None where they are given as numbers.
        images: uint8, or floats in [0, 1]: (B, C, H, W).
        resize: whether those of another size are made to fit.
        any_size: whether they may have any size, as long as all have the same.
    """

    known: ImageFacts
    files: Sequence[Path] | None
    images: Tensor
    resize: bool
    any_size: bool

    def batches(self, rows: int) -> Iterator[Tensor]:
        """Batches (n, C, H, W) in units of the pixel values of the training."""
        if self.files is None:
            for part in torch.split(self.images, rows):
                yield pixels_of(self._fitted(part), self.known.white)
            return
        first: tuple[Path, tuple[int, ...]] | None = None
        for begin in range(0, len(self.files), rows):
            images = []
            for path in self.files[begin : begin + rows]:
                image = self._read(path)
                first = first or (path, image.shape)
                if image.shape != first[1]:
                    raise ConfigurationError(
                        f"images of one call must have one size, but {legible(first[0])} has {_extent(first[1])} "
                        f"pixels and {legible(path)} {_extent(image.shape)}; give them one after the other, or "
                        f"resize=True ({FLAG})"
                    )
                images.append(torch.from_numpy(np.array(image)))  # of Pillow's pixels torch warns: they are read-only
            yield pixels_of(torch.stack(images), self.known.white)

    def _read(self, path: Path) -> NDArray[np.uint8]:
        """One file (C, H, W)."""
        known = self.known
        if known.fitted and known.size[0] == known.size[1]:
            return read_image(path, known.channels, known.size[0])  # as in training
        image = read_image(path, known.channels)
        if self.resize:
            return fitted(image, known.size)
        if not self.any_size and image.shape[1:] != known.size:
            raise wrong_size(legible(path), image.shape, known)
        return image

    def _fitted(self, images: Tensor) -> Tensor:
        if not self.resize or images.shape[2:] == self.known.size:
            return images
        numbers = images.cpu() if images.dtype == torch.uint8 else images.float().cpu()
        return torch.stack([torch.from_numpy(np.array(fitted(each, self.known.size))) for each in numbers.numpy()])


FLAG = "--resize on the command line"
# So far beyond 0 and 1 may be what was resized or filtered.
ROUNDED = 0.01
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
IMAGES = "a path, a list of paths, or images as uint8 or as floats in [0, 1] that are not normalised"


def given_images(x: Any, known: ImageFacts, *, resize: bool, any_size: bool = False) -> GivenImages:
    """Images as somebody has them.

    Raises:
        ConfigurationError: they are not what was expected.
        StorageError: a file is missing.
    """
    files = files_of(x, IMAGE_ENDINGS)
    if files is not None:
        if known.channels not in (1, 3):
            raise ConfigurationError(
                f"files hold grey or RGB images, and the network is of images of {known.channels} channels; give arrays"
            )
        return GivenImages(known, files, torch.empty(0), resize, any_size)
    channels = known.channels
    shapes = f"(C, H, W) or (B, C, H, W) with C = {channels}" + (", or (H, W)" if channels == 1 else "")
    images = tensor_of(x, f"{IMAGES}: {shapes}")
    if images.dtype not in DTYPES:
        raise ArgumentTypeError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
    images = _with_batch(images, channels, shapes)
    size = tuple(images.shape[2:])
    if not resize and not any_size and size != known.size:
        raise wrong_size("an image", images.shape, known)
    if images.is_floating_point():
        _check_range(images, known)
    return GivenImages(known, None, images, resize, any_size)


def _with_batch(images: Tensor, channels: int, shapes: str) -> Tensor:
    """Images as (B, C, H, W)."""
    shape = tuple(images.shape)
    expected = f"images must have the shape {shapes}, got {shape}"
    if images.ndim == 2 and channels == 1:
        images = images[None]
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4:
        raise ConfigurationError(expected)
    if not images.numel():
        raise ConfigurationError(f"there is nothing to predict: {expected}")
    if images.shape[1] != channels:
        hint = ""
        if images.shape[-1] == channels:
            hint = "; channels come first: numpy.moveaxis(x, -1, -3)"
        elif len(shape) == 3 and channels == 1:
            hint = "; several grey images are x[:, None]"
        raise ConfigurationError(f"{expected}{hint}")
    return images


def wrong_size(what: str, shape: Sequence[int], known: ImageFacts) -> ConfigurationError:
    """The error for an image of another size than those of the training."""
    height, width = known.size
    return ConfigurationError(
        f"{what} has {_extent(shape)} pixels, and the network is of images of {width} x {height}: give such ones, or "
        f"resize=True ({FLAG}): then the shorter side is resized, and what is too long is cut off at both ends"
    )


def _extent(shape: Sequence[int]) -> str:
    """Width and height, as images are spoken of."""
    return f"{shape[-1]} x {shape[-2]}"


def _check_range(images: Tensor, known: ImageFacts) -> None:
    """Raise unless floats are in [0, 1]."""
    # The smallest and the largest are NaN where any is.
    least, most = (each.item() for each in torch.aminmax(images))
    if least >= 0 and most <= 1:
        return
    if least != least or most != most:
        raise ConfigurationError("images that are floats must be in [0, 1], got NaN")
    hint = "images are given as they are, the network's normalisation is done here"
    if least >= -ROUNDED and most <= 1 + ROUNDED:
        hint = "clip what was rounded: x.clip(0, 1)"
    elif least >= 0 and most <= BYTE:
        divisor = known.white if most <= known.white else BYTE
        hint = f"divide by {divisor}, or give uint8"
    raise ConfigurationError(f"images that are floats must be in [0, 1], got {least:.9g} to {most:.9g}; {hint}")


def pixels_of(images: Tensor, white: int) -> Tensor:
    """Images, uint8 or floats in [0, 1], in units of the pixel values of the training, of which ``white`` is highest.

    Of fewer than 256 levels, an image of bytes that is nowhere above ``white`` holds the levels themselves. Read as
    0 to 255 it would be all but black: of scikit-learn's digits none has a maximum below 14 of 16.

    >>> pixels_of(torch.tensor([[[[0.0, 1.0]]]]), 255).flatten(), pixels_of(torch.tensor([[[[0, 255]]]]).byte(), 16)
    (tensor([  0., 255.]), tensor([[[[ 0., 16.]]]]))
    """
    if images.is_floating_point():
        return (images.float() if images.dtype.itemsize < 4 else images) * white
    if white == BYTE:
        return images
    levels = images.float()
    are_levels = (images.amax((1, 2, 3), keepdim=True) <= white).expand_as(levels)
    return torch.where(are_levels, levels, levels / BYTE * white)


def fitted(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """An image (C, H, W) made to ``size``, height and width, as files are where they are read."""
    if image.shape[1:] == size:
        return image
    # Channel by channel, which is what Pillow does with the channels of an RGB image.
    parts = (ImageOps.fit(Image.fromarray(channel), size[::-1], Image.Resampling.BILINEAR) for channel in image)
    return np.stack([np.asarray(part) for part in parts])


def given_fields(x: Any, known: FieldFacts, *, resize: bool) -> Tensor:
    """Inputs as somebody has them, (samples, channels, *space), in the units of the training's files.

    Raises:
        ConfigurationError: they are not what was expected.
        StorageError: a file is missing, or damaged.
    """
    expected = (len(known.mean), *known.space)
    files = files_of(x, FIELD_ENDINGS)
    if files is not None:
        return together([_checked_fields(read_inputs(path), expected, f"{path}, inputs", resize) for path in files])
    shown = f"{expected} or (B, {', '.join(map(str, expected))})"
    inputs = tensor_of(x, f"a path of a .npz file, a list of them, or float32 or float64 of shape {shown}")
    if inputs.dtype not in (torch.float32, torch.float64):
        raise ArgumentTypeError(f"fields must be float32 or float64, got {inputs.dtype}")
    return _checked_fields(inputs[None] if inputs.ndim == len(expected) else inputs, expected, "fields", resize)


def _checked_fields(inputs: Tensor, expected: tuple[int, ...], what: str, resize: bool) -> Tensor:
    """Fields, or an error: of the channels and the grid of the training, finite, at least one."""
    shape = tuple(inputs.shape)
    if shape[1:] != expected or not len(inputs):
        hint = (
            "; fields are not resized: interpolate them to that grid" if resize and shape[1:2] == expected[:1] else ""
        )
        named = ", ".join(map(str, expected))
        raise ConfigurationError(f"{what} must have the shape (B, {named}), as in training, got {shape}{hint}")
    if not bool(torch.isfinite(inputs).all()):
        raise ConfigurationError(f"{what} must be finite, got NaN or infinity")
    return inputs
