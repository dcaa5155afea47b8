"""Points of which a density is learnt, with what they are conditional on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.data.series.checks import numbers_of
from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.times import check_count

# Below this share of its size a column does not change.
NOTHING = 1e-12
# A pixel of 16 bits has so many values.
MOST_LEVELS = 2**16
# Names in a message, at most.
MOST_NAMES = 10
HINT = "of images, say how many values a pixel has: levels=256 of 8 bits"
HINTS = {0: "give a row for each point", 1: "of one number each, give (n, 1)"}


@dataclass(frozen=True)
class PointSet:
    """Points, checked.

    Args:
        points: (n, features), float64; or images (n, channels, height, width) of whole numbers, float32, which takes
            half of the room.
        context: (n, c), float64, what each point is conditional on; None where densities are of points alone.
        features: names of the numbers of a point; none of images.
        context_names: names of the numbers of a context.
        levels: of images, how many values a pixel may have, 0 to levels - 1; None of real numbers.
    """

    points: Tensor
    context: Tensor | None = None
    features: tuple[str, ...] = ()
    context_names: tuple[str, ...] = ()
    levels: int | None = None

    @classmethod
    def of(
        cls,
        points: Any,
        context: Any = None,
        *,
        features: Sequence[str] | None = None,
        context_names: Sequence[str] | None = None,
        levels: int | None = None,
    ) -> "PointSet":
        """Points from arrays, tensors or lists.

        Args:
            points: (n, features), or with ``levels`` images (n, channels, height, width).
            context: (n, c), or (n,) for one number each.
            features: their names; by default x0, x1, ...
            context_names: by default c0, c1, ...
            levels: of images.

        Raises:
            ConfigurationError: a shape is another one, or a number is NaN or infinite.

        >>> len(PointSet.of([[0.0, 1.0], [2.0, 3.0]]))
        2
        >>> PointSet.of([[0.0, 1.0]], context=[1.0, 2.0])
        Traceback (most recent call last):
        dynamicblocks.errors.ConfigurationError: 1 points have a context of 2 rows; give a row for each point
        """
        if levels is None:
            found = numbers_of(points, "points")
            if found.ndim != 2:
                raise ConfigurationError(
                    f"points must be of shape (n, features), got {tuple(found.shape)}; {HINTS.get(found.ndim, HINT)}"
                )
        else:
            found = _pixels(points, check_count(levels, "levels", least=2, most=MOST_LEVELS))
        if not found.numel():
            raise ConfigurationError(f"there are no points: got shape {tuple(found.shape)}")
        names = _names(features, 0 if levels is not None else found.shape[1], "x", "features")
        if levels is None:
            _check_finite(found, names, "points")
        if context is None:
            if context_names:
                raise ConfigurationError(f"there is no context that {', '.join(context_names)} would name")
            return cls(found, None, names, (), levels)
        given = numbers_of(context, "context")
        given = given[:, None] if given.ndim == 1 else given
        if given.ndim != 2 or not given.shape[1]:
            raise ConfigurationError(f"context must be of shape (n, c), got {tuple(given.shape)}")
        if len(given) != len(found):
            raise ConfigurationError(
                f"{len(found)} points have a context of {len(given)} rows; give a row for each point"
            )
        given_names = _names(context_names, given.shape[1], "c", "context_names")
        _check_finite(given, given_names, "context")
        return cls(found, given, names, given_names, levels)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a point."""
        return tuple(self.points.shape[1:])

    def select(self, rows: Tensor) -> "PointSet":
        """The points with these numbers, in this order."""
        context = None if self.context is None else self.context[rows]
        return PointSet(self.points[rows], context, self.features, self.context_names, self.levels)

    def check_varies(self, origin: str) -> None:
        """Raise for a column that is the same in each point.

        Raises:
            ConfigurationError: one is; the message names it.
        """
        for what, names, columns in (
            ("what is constant has no density", self.features, self.points),
            ("what is constant tells no points apart", self.context_names, self.context),
        ):
            if columns is None or not names:
                continue
            still = columns.amax(0) - columns.amin(0) <= NOTHING * columns.abs().amax(0)
            found = [name for name, constant in zip(names, still.tolist(), strict=True) if constant]
            if found:
                listed = ", ".join(map(brief, found[:MOST_NAMES])) + (", ..." if len(found) > MOST_NAMES else "")
                value = float(columns[0, names.index(found[0])])
                said, them = ("column {} is constant", "it") if len(found) == 1 else ("columns {} are constant", "them")
                of_which = "" if len(found) == 1 else f" ({brief(found[0])})"
                raise ConfigurationError(
                    f"{origin}: {said.format(listed)}, {value:g} in each point{of_which}: {what}; leave {them} out"
                )


@dataclass(frozen=True)
class DensityDataset:
    """Points in three splits.

    Args:
        train, validation, test: the splits.
        note: where they come from and how they are split.
    """

    train: PointSet
    validation: PointSet
    test: PointSet
    note: str


def _names(given: Sequence[str] | None, number: int, letter: str, what: str) -> tuple[str, ...]:
    if given is None:
        return tuple(f"{letter}{place}" for place in range(number))
    names = tuple(given)
    if len(names) != number:
        raise ConfigurationError(f"{what} must name {number} columns, got {len(names)}: {', '.join(names) or 'none'}")
    if len(set(names)) < number:
        raise ConfigurationError(f"{what} must be different names, got {', '.join(names)}")
    return names


def _pixels(given: Any, levels: int) -> Tensor:
    """Images of whole numbers below ``levels``, in float32, in which they are exact."""
    found = torch.from_numpy(given) if isinstance(given, np.ndarray) and given.dtype == np.uint8 else given
    # Whole numbers of 8 bits, as images are stored, need no room for a comparison of each.
    if not isinstance(found, Tensor) or found.dtype != torch.uint8:
        found = numbers_of(found, "images")
    if found.ndim != 4:
        raise ConfigurationError(f"images must be of shape (n, channels, height, width), got {tuple(found.shape)}")
    if found.dtype != torch.uint8 or (found.numel() and int(found.max()) >= levels):
        wrong = (~((found >= 0) & (found < levels) & (found == found.round()))).nonzero()
        if len(wrong):
            image, channel, row, column = wrong[0].tolist()
            raise ConfigurationError(
                f"pixels must be whole numbers from 0 to {levels - 1}, but image {image} has "
                f"{found[image, channel, row, column].item():g} in channel {channel}, row {row}, column {column}"
            )
    return found.detach().cpu().to(torch.float32)


def _check_finite(values: Tensor, names: Sequence[str], what: str) -> None:
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        others = f", and {len(bad) - 1:,} more are not finite" if len(bad) > 1 else ""
        raise ConfigurationError(
            f"{what} must be finite numbers: row {row} has {values[row, column].item():g} in column "
            f"{brief(names[column])}{others}; leave the row out, or fill it in"
        )
