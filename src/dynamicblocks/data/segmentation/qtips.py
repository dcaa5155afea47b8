"""Q-tips: rods whose class depends on both ends, made on the fly (Haber, Lensink, Treister & Ruthotto 2019)."""

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count

Pixels = NDArray[np.uint8]

BACKGROUND, ROD, WHITE, BLACK = 112, 128, 255, 1
CLASSES = ("background", "white-white", "white-black", "black-black")
# The two ends of a rod, by its class.
ENDS = ((WHITE, WHITE), (WHITE, BLACK), (BLACK, BLACK))
WIDTH = 2
"""Pixels across a rod; a marker is as long as it is wide."""
SIZE, TRAINING, VALIDATION, TEST = 64, 1024, 128, 256
# Smaller ones have so few different images that held-out ones could hardly be found.
LEAST_SIZE = 32
# Images that are made at once.
AT_ONCE = 256


def lengths(size: int) -> range:
    """How long the rods in images of that size are: in those of 64 pixels, as published, 32 to 59."""
    return range(size // 2, size - 4)


def draw_rods(length: NDArray[np.int64], kind: NDArray[np.int64], degrees: NDArray[np.float64], size: int) -> Pixels:
    """Images and masks (2, n, size, size) of rods of such lengths, with ends of such kinds, turned by such angles.

    A rod lies level in the middle of its image, then it is turned about the centre; each pixel takes the value of the
    nearest one, and what comes from without is background.
    """
    across = np.arange(size) + 0.5 - size / 2
    cosine, sine = (value[:, None, None] for value in (np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))))
    y, x = across[:, None], across[None, :]
    # Which pixel of the level rod each pixel comes from, counted from its first column and row.
    along = np.floor(cosine * x - sine * y + size / 2) - ((size - length) // 2)[:, None, None]
    beside = np.floor(sine * x + cosine * y + size / 2) - (size - WIDTH) // 2
    until_end = length[:, None, None] - 1 - along
    inside = (along >= 0) & (until_end >= 0) & (beside >= 0) & (beside < WIDTH)
    first, last = np.array(ENDS)[kind].T[:, :, None, None]
    images = np.select([~inside, along < WIDTH, until_end < WIDTH], [BACKGROUND, first, last], ROD)
    return np.stack([images, np.where(inside, kind[:, None, None] + 1, 0)]).astype(np.uint8)


def draw_split(count: int, size: int, key: tuple[int, ...], others: set[bytes]) -> tuple[Pixels, Pixels]:
    """The first ``count`` images, and their masks, of the order that ``key`` fixes, but for ``others``."""
    # RandomState's numbers are promised to stay what they are; the first of them do not depend on how many there are.
    draw = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))
    kept: list[Pixels] = []
    while len(kept) < count:
        shares = draw.random_sample((AT_ONCE, 3))
        length, kind = (np.floor(shares[:, :2] * (len(lengths(size)), len(ENDS)))).astype(np.int64).T
        rods = draw_rods(length + lengths(size).start, kind, 360 * shares[:, 2] - 180, size)
        kept += [rods[:, place] for place in range(AT_ONCE) if rods[0, place].tobytes() not in others]
    images, masks = np.stack(kept[:count], axis=1)
    return images, masks


def qtips(size: int, training: int, seed: int) -> dict[str, tuple[Pixels, Pixels]]:
    """Images (n, size, size) and masks of the three splits, no image in two of them.

    What is held out depends on the seed alone, not on how many training images there are.
    """
    if check_count(size, "data.size") < LEAST_SIZE:
        raise ConfigurationError(f"data.size of qtips must be at least {LEAST_SIZE} pixels, got {size}")
    check_count(training, "data.train_images")
    made: dict[str, tuple[Pixels, Pixels]] = {}
    seen: set[bytes] = set()
    for number, (name, count) in enumerate({"test": TEST, "validation": VALIDATION, "train": training}.items()):
        made[name] = draw_split(count, size, (seed, number), seen)
        seen |= {image.tobytes() for image in made[name][0]}
    return made
