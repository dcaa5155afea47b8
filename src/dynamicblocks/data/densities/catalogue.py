"""Sets of points by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dynamicblocks.data.densities.files import KINDS, read_points
from dynamicblocks.data.densities.images import (
    FOLDER,
    IMAGES,
    LABEL,
    check_context,
    folder_of_images,
    named_images,
    one_hot,
)
from dynamicblocks.data.densities.points import DensityDataset, PointSet
from dynamicblocks.data.densities.toys import toy_sets
from dynamicblocks.data.series.checks import check_share
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.times import check_count

# Points drawn on the fly: to train on, for validation, for test.
DRAWN = (50_000, 2_000, 10_000)
OTHER_NAMES = {"8gaussians": "eight_gaussians", "two_moons": "moons"}
WHAT = "set of points"
CLASSES = {"moons": 2, "circles": 2, "checkerboard": 4, "swiss_roll": 2, "eight_gaussians": 8, "pinwheel": 5}
"""Of points drawn on the fly, how many there are."""


def density_sets() -> tuple[str, ...]:
    """The names of sets of points that need no file."""
    return (*toy_sets, *IMAGES)


def check_named(name: str) -> tuple[str, str]:
    """The kind and the rest of a name: ``("toy", "moons")``, ``("image", "digits")``, ``("csv", PATH)``, ...

    Raises:
        ConfigurationError: there is no such set; the message says what there is.

    >>> check_named("csv:power.csv")
    ('csv', 'power.csv')
    """
    kinds = (*KINDS.values(), FOLDER)
    kind, colon, where = name.partition(":")
    if colon and where and kind in kinds:
        return kind, where
    plain = OTHER_NAMES.get(name, name)
    if plain in toy_sets:
        return "toy", plain
    if plain in IMAGES:
        return "image", plain
    meant = KINDS.get(Path(name).suffix.lower())
    if meant and not colon:
        raise ConfigurationError(f"unknown {WHAT} {name!r}; did you mean {meant}:{name}?")
    raise unknown_name(WHAT, name, [*density_sets(), *(f"{each}:PATH" for each in kinds)])


def load_density(
    name: str,
    *,
    seed: int = 0,
    samples: int | None = None,
    values: Sequence[str] | None = None,
    context: Sequence[str] = (),
    validation: float = 0.1,
    test: float = 0.1,
    data_dir: str | None = None,
) -> DensityDataset:
    """The points of that name, split.

    Args:
        name: moons, circles, checkerboard, swiss_roll, eight_gaussians, pinwheel, drawn on the fly; digits, mnist,
            fashion-mnist, cifar10, with their own test images; csv:PATH, parquet:PATH, npy:PATH, npz:PATH; or
            images:FOLDER.
        seed: what is drawn, or which points are held out.
        samples: of points drawn on the fly, how many to train on; by default 50,000.
        values: of a file, the columns that make a point.
        context: of a file, the columns that a point is conditional on; ``label`` of points drawn on the fly and of
            images, one-hot.
        validation, test: shares held out, where a set does not bring such points of its own.
        data_dir: where a relative path begins, or a local copy of images lies.

    Raises:
        ConfigurationError: there is no such set, or an option is not of such a set.
        StorageError: a file is missing or damaged.

    >>> data = load_density("pinwheel", samples=100)
    >>> data.train.points.shape, len(data.test)
    (torch.Size([100, 2]), 10000)
    """
    kind, where = check_named(name)
    if samples is not None and kind != "toy":
        raise ConfigurationError(f"data.samples is of points drawn on the fly, not of {name}; leave it out")
    if values and kind in ("toy", "image", FOLDER):
        raise ConfigurationError(f"data.values names columns of a file, which {name} is not; leave it out")
    if kind == "toy":
        return _drawn(where, seed, samples, context)
    if kind == "image":
        return named_images(where, context=context, validation=validation, seed=seed, data_dir=data_dir)
    path = Path(data_dir, where) if data_dir else Path(where)
    if kind == FOLDER:
        if context:
            raise ConfigurationError(f"images of a folder have no {context[0]}; leave out data.context")
        return split_density(folder_of_images(path), name, validation, test, seed)
    return split_density(read_points(path, kind, values=values or (), context=context), name, validation, test, seed)


def split_density(points: PointSet, name: str, validation: float, test: float, seed: int) -> DensityDataset:
    """Points in three splits, by chance.

    Args:
        points: all there are.
        name: where they come from, for the note and messages.
        validation, test: shares, in (0, 1).
        seed: which points they are.

    Raises:
        ConfigurationError: a column is constant, a share is none, or nothing is left to train on.
    """
    shares = [check_share(test, "data.test"), check_share(validation, "data.validation")]
    points.check_varies(name)
    number = len(points)
    held = [max(1, round(share * number)) for share in shares]
    left = number - sum(held)
    if left < 2:
        raise ConfigurationError(
            f"{name}: {number} points leave {max(left, 0)} to train on beside data.validation {validation:g} and "
            f"data.test {test:g}: lower them, or give more points"
        )
    # RandomState's numbers are promised to stay what they are.
    order = torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(number))
    tested, kept, rest = (points.select(rows.sort().values) for rows in torch.split(order, [*held, left]))
    rest.check_varies(f"{name}, training points")
    note = f"{name}: {left:,} points for training, {held[1]:,} for validation, {held[0]:,} for test, split seed {seed}"
    return DensityDataset(rest, kept, tested, note)


def _drawn(name: str, seed: int, samples: int | None, context: Sequence[str]) -> DensityDataset:
    check_context(context)
    numbers = (DRAWN[0] if samples is None else check_count(samples, "data.samples", least=2), *DRAWN[1:])
    parts = []
    for place, number in enumerate(numbers):
        points, labels = toy_sets[name](number, generator(seed, place))
        classes = CLASSES[name]
        parts.append(
            PointSet.of(
                points,
                one_hot(labels, classes) if context else None,
                context_names=tuple(f"{LABEL}={each}" for each in range(classes)) if context else None,
            )
        )
    note = "{}: points drawn on the fly, {:,} for training, {:,} for validation, {:,} for test, seed {}".format(
        name, *numbers, seed
    )
    return DensityDataset(parts[0], parts[1], parts[2], note)
