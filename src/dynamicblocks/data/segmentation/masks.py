"""Images and their masks in folders: PATH/{train,val,test}/{images,masks}/NAME.*, masks hold class indices."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dynamicblocks.data.images.folder import ENDINGS
from dynamicblocks.errors import StorageError

Pixels = NDArray[np.uint8]

IGNORED = 255
"""The class index of pixels that count nowhere."""
PARTS = ("train", "val", "test")
# Formats without loss: of others the indices would be others.
MASK_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
IMAGE_ENDINGS = (*ENDINGS, ".tif", ".tiff")
# Grey values of 2 and 4 bits arrive spread over 0 to 255.
SPREAD = {"L;2": 85, "L;4": 17}
GREY = ("1", "L", "LA", "La")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Names in a message, at most.
NAMED = 5

Pair = tuple[Path, Path]
"""The files of an image and of its mask."""


def find_pairs(root: Path) -> dict[str, tuple[Pair, ...]]:
    """The pairs of the parts ``train``, ``val`` and ``test`` that are there, in the order of their names.

    Raises:
        StorageError: there is no train, or neither val nor test; a part is empty; a file has no partner, or several.
    """
    parts = [part for part in PARTS if (root / part).is_dir()]
    if "train" not in parts or len(parts) < 2:
        raise StorageError(f"{root} must hold the folders train and val or test, found {', '.join(parts) or 'none'}")
    return {part: _pairs_of(root / part) for part in parts}


def _pairs_of(folder: Path) -> tuple[Pair, ...]:
    images = _by_name(folder / "images", IMAGE_ENDINGS, "an image")
    masks = _by_name(folder / "masks", MASK_ENDINGS, "a mask, stored without loss")
    for these, others, partner in ((images, masks, "mask"), (masks, images, "image")):
        alone = [path for name, path in these.items() if name not in others]
        if alone:
            more = f", nor have {len(alone) - 1} others" if len(alone) > 1 else ""
            raise StorageError(f"{alone[0]} has no {partner} {folder / f'{partner}s' / alone[0].stem}.*{more}")
    return tuple((images[name], masks[name]) for name in sorted(images))


def _by_name(folder: Path, endings: Sequence[str], what: str) -> dict[str, Path]:
    """The files of a folder by their names without endings; hidden files do not count."""
    if not folder.is_dir():
        raise StorageError(f"{folder} is no folder; {folder.parent} must hold the folders images and masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in endings or not path.is_file():
            raise StorageError(f"{path} is not {what} ({', '.join(endings)}); take it out, or convert it")
        if path.stem in found:
            raise StorageError(f"{found[path.stem]} and {path} have one name; keep one of them")
        found[path.stem] = path
    if not found:
        raise StorageError(f"{folder} holds no file ({', '.join(endings)})")
    return found


def opened(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    """What ``read`` gives for an image file.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return read(image)
    except UNREADABLE as error:
        raise StorageError(f"{path} cannot be read as an image ({error}); remove it or get it again") from error


def extent_of(path: Path) -> tuple[tuple[int, int], str]:
    """Width and height of an image file, and its mode, from its first bytes."""
    size, mode = opened(path, lambda image: (image.size, image.mode))
    return size, mode


def check_pair(image: Path, mask: Path) -> tuple[tuple[int, int], bool]:
    """Width and height of an image that has the size of its mask, and whether it is grey."""
    (size, mode), (other, _) = extent_of(image), extent_of(mask)
    if size != other:
        raise StorageError(f"{mask} has {other[0]} x {other[1]} pixels, {image} has {size[0]} x {size[1]}")
    if mode in DEEP:
        raise StorageError(f"{image} has more than 8 bits a channel (mode {mode}); convert it to 8 bits")
    return size, mode in GREY


def read_image(path: Path, channels: int, size: int | None) -> Pixels:
    """An image as (channels, height, width), grey or RGB.

    With ``size`` its shorter side is resized to so many pixels, and the square in its middle is taken.
    """

    def read(image: Image.Image) -> Pixels:
        converted = image.convert("L" if channels == 1 else "RGB")
        return np.asarray(_square(converted, size, Image.Resampling.BILINEAR), dtype=np.uint8)

    pixels: Pixels = opened(path, read)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_mask(path: Path, size: int | None = None) -> Pixels:
    """The class indices of a mask (height, width): of a palette image the indices, not the colours.

    Raises:
        StorageError: it cannot be read, has colours of its own, or an index beyond 255.
    """

    def read(image: Image.Image) -> NDArray[Any]:
        # How the pixels lie in the file is forgotten once they are read.
        spread = SPREAD.get(_raw_mode(image), 1)
        if image.mode not in ("1", "L", "P", *DEEP[:-1]):
            raise StorageError(
                f"{path} must hold class indices, one number a pixel (palette, grey or 16 bits), got mode {image.mode}"
            )
        return np.asarray(image) // spread if spread > 1 else np.asarray(image)

    indices: NDArray[Any] = opened(path, read)
    highest, lowest = indices.max(), indices.min()
    if highest > IGNORED or lowest < 0:
        wrong = highest if highest > IGNORED else lowest
        raise StorageError(f"{path} must hold class indices from 0 to 254, and 255 for ignored pixels, got {wrong}")
    mask = indices.astype(np.uint8)
    return mask if size is None else np.asarray(_square(Image.fromarray(mask), size, Image.Resampling.NEAREST))


def _raw_mode(image: Image.Image) -> str:
    """How the pixels of an image that is not read yet lie in its file; empty where that is not said."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        return raw if isinstance(raw, str) else ""
    return ""


def _square(image: Image.Image, size: int | None, resampling: Image.Resampling) -> Image.Image:
    return image if size is None else ImageOps.fit(image, (size, size), resampling)


def read_names(root: Path) -> tuple[str, ...] | None:
    """The names of the classes in ``classes.txt``, a line each; None where there is no such file.

    Raises:
        StorageError: it cannot be read, or holds an empty name or one name twice.
    """
    path = root / "classes.txt"
    if not path.exists():
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if not all(names) or len(set(names)) < len(names):
        raise StorageError(f"{path} must hold a line for each class, none empty and no name twice, got {names}")
    return tuple(names)


def check_indices(path: Path, counts: NDArray[np.int64], classes: int, known: str) -> None:
    """Raise for a mask with a class beyond those that are known, from the counts of its 256 indices."""
    beyond = [index for index in np.flatnonzero(counts[:IGNORED]).tolist() if index >= classes]
    if beyond:
        listed = ", ".join(map(str, beyond[:NAMED]))
        raise StorageError(f"{path} holds class {listed}, but {known}, 0 to {classes - 1}, and 255 for ignored pixels")
