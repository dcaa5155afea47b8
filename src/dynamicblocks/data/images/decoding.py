"""Image files as pixels of 8 bits, grey or RGB: the rules that every reader of image files shares.

Upright (EXIF orientation), the first frame, 16 bits cut to their upper 8, transparency on white, palettes looked up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.times import check_count
from dynamicblocks.visible import legible

Pixels = NDArray[np.uint8]
T = TypeVar("T")

# Readers of Pillow that may see a file, whatever its ending says: others start programs, or hold no pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
ORIENTATION = 0x0112
# What brings an image upright, by its EXIF orientation; 1 is upright, and nothing else is defined.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTERS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""
# Where a PNG file may tell its orientation behind its pixels.
PNG_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of one channel of more than 8 bits."""
GREY = ("1", "L", "LA", "La", *DEEP)
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
WHITE = 255
# The side of the digits, the smallest images that are known to tell something; networks halve it once or twice.
LEAST_SIDE = 8


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Args:
        width, height: of the upright image.
        grey: whether it has one channel, beside transparency.
        orientation: by which it is turned upright, 1 to 8.
        several: whether it has more than one frame or page.
    """

    width: int
    height: int
    grey: bool
    orientation: int
    several: bool


def check_side(size: int) -> int:
    """Return the side of squares that images are made to, or raise: fewer pixels show nothing."""
    if check_count(size, "data.size") < LEAST_SIDE:
        raise ConfigurationError(f"data.size must be at least {LEAST_SIDE} pixels, got {size}")
    return size


def opened(path: Path, read: Callable[[Image.Image], T]) -> T:
    """What ``read`` gives for an image file.

    Raises:
        StorageError: it is none, is damaged, or has more pixels than a picture has (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    if not path.is_file():
        # To open a pipe would be to wait for whoever writes to it.
        raise StorageError(f"{legible(path)} is no file that can be read as an image")
    try:
        with Image.open(path, formats=FORMATS) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:
                raise StorageError(
                    f"{legible(path)} cannot be read as an image: it has {image.width:,} x {image.height:,} pixels, "
                    f"more than {most:,}; make it smaller"
                )
            return read(image)
    except StorageError:
        raise
    except Exception as error:  # of damaged files, whatever a step of decoding meets first
        raise StorageError(
            f"{legible(path)} cannot be read as an image ({_why(path, error)}); remove it or get it again"
        ) from error


def header_of(path: Path) -> Header:
    """Size and kind of an image file, its pixels unread."""

    def read(image: Image.Image) -> Header:
        tags = getattr(image, "tag_v2", None)
        # Pillow's versions differ in whether a TIFF's size is that of the upright image before its pixels are read.
        width, height = image.size if tags is None else (int(tags[256]), int(tags[257]))
        orientation = _orientation_of_unread(image, path)
        if orientation in QUARTERS:
            width, height = height, width
        return Header(width, height, image.mode in GREY, orientation, _several(image))

    return opened(path, read)


def read_image(path: Path, channels: int, size: int | None = None) -> Pixels:
    """The upright image as (channels, height, width): grey for one channel, RGB for three.

    With ``size`` its shorter side is resized to so many pixels, and the square in its middle is taken.

    Raises:
        StorageError: it cannot be read, or no rule says what its values mean.
    """
    pixels = np.asarray(opened(path, lambda image: _square(decoded(image, channels), size)), dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decoded(image: Image.Image, channels: int) -> Image.Image:
    """An open image of any mode, upright, as one of mode L (one channel) or RGB (three).

    Raises:
        StorageError: its values have no range that is known.
    """
    raw = raw_mode(image)
    whole = upright(image)
    if whole.mode in DEEP or whole.mode == "F":
        plain = _eight_bits(whole, raw, image)
    elif whole.mode in ALPHA or "transparency" in whole.info:
        plain = _on_white(whole.convert("RGBA"))
    else:
        plain = whole
    return plain.convert("L" if channels == 1 else "RGB")


def upright(image: Image.Image) -> Image.Image:
    """An open image, read and turned by its EXIF orientation; its values as they are."""
    image.load()
    # The pixels of a TIFF are upright once they are read.
    turn = None if image.format == "TIFF" else UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def raw_mode(image: Image.Image) -> str:
    """How the pixels of an image that is not read yet lie in its file; empty where that is not said."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3]
        raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        return raw if isinstance(raw, str) else ""
    return ""


def _eight_bits(image: Image.Image, raw: str, file: Image.Image) -> Image.Image:
    """One channel of 16 bits (or 12) by its upper 8, which is how Pillow reads three of them."""
    bits = 12 if raw == "I;12" else 16
    # Pillow scales whatever lies in a .pgm file to 16 bits.
    if image.mode == "F" or (image.mode == "I" and file.format != "PPM" and (raw[:4] != "I;16" or raw[-1] == "S")):
        kind = "floats" if image.mode == "F" else "integers of 32 bits, or with a sign"
        raise StorageError(
            f"{legible(str(getattr(file, 'filename', 'the image')))} holds {kind}, of which no range is known: "
            "convert it to 8 or 16 bits"
        )
    values = np.asarray(image)
    levels = (values >> (bits - 8)).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int):
        levels[values == key] = WHITE
    return Image.fromarray(levels)


def _on_white(image: Image.Image) -> Image.Image:
    """An RGBA image on a white ground: what is hidden behind full transparency is nobody's picture."""
    ground = Image.new("RGB", image.size, (WHITE,) * 3)
    ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return ground


def _square(image: Image.Image, size: int | None) -> Image.Image:
    return image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what cameras and programs write beside the pixels is no reason to lose them
        return 1
    return value if value in UPRIGHT else 1


def _orientation_of_unread(image: Image.Image, path: Path) -> int:
    """The same, without reading the pixels of a PNG file behind which nothing is told."""
    if image.format == "PNG" and "exif" not in image.info:
        content = path.read_bytes()
        if not any(mark in content for mark in PNG_MARKS):
            return 1
        image.load()
    return _orientation(image)


def _several(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # there is something behind the first frame, and it is damaged
        return True


def _why(path: Path, error: Exception) -> str:
    """The cause in a line, of a file that Pillow does not know without its name once more."""
    if not path.stat().st_size:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"damaged, or none of {', '.join(FORMATS)}"
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
