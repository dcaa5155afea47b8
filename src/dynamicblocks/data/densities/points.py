"""Points of which a density is learnt, with what they are conditional on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.series.checks import numbers_of
from dynamicblocks.errors import ConfigurationError, brief

# Below this share of its size a column does not change.
NOTHING = 1e-12


@dataclass(frozen=True)
class PointSet:
    """Points, checked.

    Args:
        points: (n, *shape), float64: (n, features), or images (n, channels, height, width) of whole numbers.
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
        found = numbers_of(points, "points")
        if levels is None and found.ndim != 2:
            raise ConfigurationError(f"points must be of shape (n, features), got {tuple(found.shape)}")
        if levels is not None and found.ndim != 4:
            raise ConfigurationError(f"images must be of shape (n, channels, height, width), got {tuple(found.shape)}")
        if not found.numel():
            raise ConfigurationError(f"there are no points: got shape {tuple(found.shape)}")
        names = _names(features, found.shape[1] if levels is None else 0, "x", "features")
        _check_finite(found, names, "points")
        if levels is not None and not bool(((found == found.round()) & (found >= 0) & (found < levels)).all()):
            raise ConfigurationError(
                f"pixels must be whole numbers from 0 to {levels - 1}, got some that are not, from {found.min():g} to "
                f"{found.max():g}"
            )
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
            ("has no density", self.features, self.points),
            ("tells points not apart", self.context_names, self.context),
        ):
            if columns is None or not names:
                continue
            for name, column in zip(names, columns.unbind(1), strict=True):
                if float(column.max() - column.min()) <= NOTHING * float(column.abs().max()):
                    raise ConfigurationError(
                        f"{origin}: column {brief(name)} is constant, {float(column[0]):g} in each point, and {what}; "
                        "leave it out"
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


def _check_finite(values: Tensor, names: Sequence[str], what: str) -> None:
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        row, *place = bad[0].tolist()
        where = f"column {brief(names[place[0]])}" if names else f"place {tuple(place)}"
        raise ConfigurationError(
            f"{what} must be finite numbers: row {row} has {values[tuple(bad[0])].item():g} in {where}; leave the row "
            "out, or fill it in"
        )
