"""Colours of classes."""

from itertools import cycle, islice

IGNORED_COLOUR = "#ffffff"
# Far apart in hue and in lightness; the first is often the background.
COLOURS = (
    "#22223b", "#edae49", "#00798c", "#d1495b", "#8ac926", "#c77dff", "#90e0ef", "#bc6c25", "#f8ad9d", "#4f772d",
)  # fmt: skip


def colours_of(classes: int) -> list[str]:
    """A colour for each class.

    >>> colours_of(2)
    ['#22223b', '#edae49']
    """
    return list(islice(cycle(COLOURS), classes))


def palette_of(classes: int) -> bytes:
    """Red, green and blue of each class, as the palette of an image holds them.

    >>> palette_of(1).hex()
    '22223b'
    """
    return b"".join(bytes.fromhex(colour[1:]) for colour in colours_of(classes))
