"""Images and their masks in folders: PATH/{train,val,test}/{images,masks}/NAME.*, masks hold class indices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dynamicblocks.data.images.decoding import DEEP, Pixels, header_of, opened, raw_mode, upright
from dynamicblocks.data.images.files import IMAGE_ENDINGS, MASK_ENDINGS, LeftOut, find_files
from dynamicblocks.data.images.folder import parts_of
from dynamicblocks.errors import StorageError
from dynamicblocks.visible import legible

IGNORED = 255
"""The class index of pixels that count nowhere."""
LAYOUT = (
    "the layout is PATH/train/images/NAME.* and PATH/train/masks/NAME.*, and the same in PATH/val or PATH/test, or both"
)
# Grey values of 2 and 4 bits arrive spread over 0 to 255.
SPREAD = {"L;2": 85, "L;4": 17}
# One number a pixel, and a whole one.
INDICES = ("1", "L", "P", *DEEP)
# Names in a message, at most.
NAMED = 5

Pair = tuple[Path, Path]
"""The files of an image and of its mask."""


@dataclass(frozen=True)
class Fit:
    """An image that has the size of its mask.

    Args:
        width, height: of both, upright.
        grey: whether the image has one channel.
        turned: whether its EXIF orientation turned it.
        several: whether it has more than one frame or page.
    """

    width: int
    height: int
    grey: bool
    turned: bool
    several: bool


def find_pairs(root: Path, left_out: LeftOut) -> dict[str, tuple[Pair, ...]]:
    """The pairs of the parts ``train``, ``val`` and ``test`` that are there, in the order of their names.

    Raises:
        StorageError: there is no train, or neither val nor test; a part is empty; a file has no partner, or several.
    """
    return {part: _pairs_of(root / part, left_out) for part in parts_of(root, LAYOUT)}


def _pairs_of(folder: Path, left_out: LeftOut) -> tuple[Pair, ...]:
    images = _by_name(folder / "images", left_out)
    masks = _by_name(folder / "masks", left_out)
    for path in masks.values():
        if path.suffix.lower() not in MASK_ENDINGS:
            endings = ", ".join(MASK_ENDINGS)
            raise StorageError(f"{legible(path)} is not a mask, stored without loss ({endings}); take it out")
    for these, others, partner in ((images, masks, "mask"), (masks, images, "image")):
        alone = [name for name in these if name not in others]
        if alone:
            more = f", nor have {len(alone) - 1} others" if len(alone) > 1 else ""
            sought = folder / f"{partner}s" / Path(*alone[0])
            raise StorageError(f"{legible(these[alone[0]])} has no {partner} {legible(sought)}.*{more}")
    return tuple((images[name], masks[name]) for name in sorted(images))


def _by_name(folder: Path, left_out: LeftOut) -> dict[tuple[str, ...], Path]:
    """The image files of a folder and those in it by their paths from there, without endings."""
    if not folder.is_dir():
        raise StorageError(f"{legible(folder)} is no folder; {LAYOUT}")
    found: dict[tuple[str, ...], Path] = {}
    for path in find_files(folder, left_out):
        inside = path.relative_to(folder)
        name = (*inside.parts[:-1], inside.stem)
        if name in found:
            raise StorageError(f"{legible(found[name])} and {legible(path)} have one name; keep one of them")
        found[name] = path
    if not found:
        raise StorageError(f"{legible(folder)} holds no file ({', '.join(IMAGE_ENDINGS)})")
    return found


def check_pair(image: Path, mask: Path) -> Fit:
    """What an image is, if it has the size of its mask once each is turned upright by its own EXIF orientation."""
    mine, other = header_of(image), header_of(mask)
    if (mine.width, mine.height) != (other.width, other.height):
        turned = ""
        if mine.orientation != other.orientation:
            turned = (
                f" once they are upright: their EXIF orientations are {other.orientation} and {mine.orientation}; turn "
                "the mask as the image is shown"
            )
        raise StorageError(
            f"{legible(mask)} has {other.width} x {other.height} pixels, {legible(image)} has {mine.width} x "
            f"{mine.height}{turned}"
        )
    return Fit(mine.width, mine.height, mine.grey, mine.orientation != 1, mine.several)


def read_mask(path: Path, size: int | None = None) -> Pixels:
    """The class indices of a mask (height, width): of a palette image the indices, not the colours.

    Raises:
        StorageError: it cannot be read, has colours of its own, or an index beyond 255.
    """

    def read(image: Image.Image) -> NDArray[Any]:
        # How the pixels lie in the file is forgotten once they are read.
        spread = SPREAD.get(raw_mode(image), 1)
        if image.mode not in INDICES:
            raise StorageError(
                f"{legible(path)} must hold class indices, one number a pixel (palette, grey or 16 bits), got mode "
                f"{image.mode}"
            )
        if getattr(image, "is_animated", False):
            raise StorageError(f"{legible(path)} holds several images, expected one mask of class indices")
        indices = np.asarray(upright(image))
        return indices // spread if spread > 1 else indices

    indices: NDArray[Any] = opened(path, read)
    highest, lowest = indices.max(), indices.min()
    if highest > IGNORED or lowest < 0:
        wrong = highest if highest > IGNORED else lowest
        raise StorageError(
            f"{legible(path)} must hold class indices from 0 to 254, and 255 for ignored pixels, got {wrong}"
        )
    mask = indices.astype(np.uint8)
    return (
        mask
        if size is None
        else np.asarray(ImageOps.fit(Image.fromarray(mask), (size, size), Image.Resampling.NEAREST))
    )


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
        raise StorageError(f"{legible(path)} cannot be read: {error}") from error
    if not all(names) or len(set(names)) < len(names):
        raise StorageError(
            f"{legible(path)} must hold a line for each class, none empty and no name twice, got {names}"
        )
    return tuple(names)


def check_indices(path: Path, counts: NDArray[np.int64], classes: int, known: str) -> None:
    """Raise for a mask with a class beyond those that are known, from the counts of its 256 indices."""
    beyond = [index for index in np.flatnonzero(counts[:IGNORED]).tolist() if index >= classes]
    if beyond:
        listed = ", ".join(map(str, beyond[:NAMED]))
        raise StorageError(
            f"{legible(path)} holds class {listed}, but {known}, 0 to {classes - 1}, and 255 for ignored pixels"
        )
