"""Points of which a density is learnt, perhaps each with a context that it depends on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, brief
from dynamicblocks.times import check_count

# Pixels of 16 bits have so many values.
MOST_LEVELS = 2**16
# A deviation below so small a share of the largest number is rounding.
NOTHING = 1e-12
# Names in a message, at most.
MOST_NAMES = 10


@dataclass(frozen=True)
class PointSet:
    """Points, or images of whole pixel values; perhaps a context for each. Made by :meth:`of`, which checks.

    Args:
        points: (n, features), float64; or images (n, channels, height, width) of the whole numbers 0 to ``levels`` - 1,
            float32.
        context: (n, c), float64; None where there is none.
        features: a name for each feature; of images none.
        context_names: a name for each column of the context.
        levels: of images, how many values a pixel has; else None.
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
        """Points from tensors, NumPy arrays or lists of real numbers, floating or whole.

        Args:
            points: (n, features), or (n,) of one feature; with ``levels``, images (n, channels, height, width) or grey
                ones (n, height, width).
            context: (n, c) or (n,).
            features: their names; by default x0, x1, ...
            context_names: their names; by default c0, c1, ...
            levels: how many values a pixel has: 256 of 8 bits.

        Raises:
            ArgumentTypeError: something is no array of numbers.
            ConfigurationError: a number is NaN or infinite (the message says in which row and column), a pixel is no
                whole number of the levels, or sizes or names do not go together.

        >>> moved = PointSet.of([[0.0, 1.0], [2.0, 3.0]], [0, 1])
        >>> moved.shape, moved.features, moved.context_names
        ((2,), ('x0', 'x1'), ('c0',))
        """
        found, names = _pixels(points, levels) if levels is not None else _table(points, features)
        if levels is not None and features:
            raise ConfigurationError("the pixels of images have no names; leave out features")
        beside, beside_names = (None, ()) if context is None else _table(context, context_names, "context", "c")
        if context is None and context_names:
            raise ConfigurationError(f"context_names {brief(tuple(context_names))} are given, but no context")
        if beside is not None and len(beside) != len(found):
            raise ConfigurationError(
                f"there must be a context for each of the {len(found):,} points, got {len(beside):,}"
            )
        return cls(found, beside, names, beside_names, levels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a point."""
        return tuple(self.points.shape[1:])

    def __len__(self) -> int:
        return len(self.points)

    def select(self, rows: Tensor) -> "PointSet":
        """Some of the points, in this order."""
        return replace(self, points=self.points[rows], context=None if self.context is None else self.context[rows])


@dataclass(frozen=True)
class DensityDataset:
    """Points in three splits.

    Args:
        train, validation, test: the splits, in the units of the data.
        note: where the points come from and how they were split, for the record of a run.
    """

    train: PointSet
    validation: PointSet
    test: PointSet
    note: str


def check_varies(points: PointSet, what: str) -> None:
    """Raise for a column of which nothing can be learnt: it never changes. Pixels may well be so, at the margin."""
    for values, names in ((points.points, points.features), (points.context, points.context_names)):
        if values is None or not names:
            continue
        constant = ((values - values[0]).abs().amax(0) <= NOTHING * values.abs().amax(0)).tolist()
        found = [name for name, still in zip(names, constant, strict=True) if still]
        if found:
            place = names.index(found[0])
            raise ConfigurationError(
                f"{what}: {'column' if len(found) == 1 else 'columns'} {listed(found)} "
                f"{'is' if len(found) == 1 else 'are'} constant ({brief(found[0])} is {values[0, place]:g} in each "
                "row), so there is no density: leave them out, or name the others by data.values"
            )


def listed(names: Sequence[str]) -> str:
    """The first few of several names, as a message shows them."""
    return ", ".join(map(brief, names[:MOST_NAMES])) + (", ..." if len(names) > MOST_NAMES else "")


def _table(
    given: Any, wanted: Sequence[str] | None, what: str = "points", letter: str = "x"
) -> tuple[Tensor, tuple[str, ...]]:
    """Finite numbers (n, columns), in float64, and a name for each column."""
    found = _numbers(given, what).to(torch.float64)
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or not found.numel():
        hint = "; of images, say how many values a pixel has, such as levels=256" if found.ndim in (3, 4) else ""
        raise ConfigurationError(
            f"{what} must have the shape (n, {'c' if letter == 'c' else 'features'}), with one row at least, got "
            f"{tuple(found.shape)}{hint}"
        )
    width = found.shape[1]
    names = tuple(f"{letter}{place}" for place in range(width)) if wanted is None else tuple(map(str, wanted))
    if len(names) != width or len(set(names)) < width:
        raise ConfigurationError(
            f"{what} have {width} columns, which need as many different names, got {len(names)}: {listed(names)}"
        )
    wrong = (~torch.isfinite(found)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ConfigurationError(
            f"{what} must be finite, but row {row}, column {names[column]!r} (number {column}) is "
            f"{found[row, column]:g}, and {len(wrong) - 1:,} others are not finite; leave such rows out"
        )
    return found, names


def _pixels(given: Any, levels: int) -> tuple[Tensor, tuple[str, ...]]:
    """Images (n, channels, height, width) of whole numbers below ``levels``, in float32."""
    check_count(levels, "levels", least=2, most=MOST_LEVELS)
    found = _numbers(given, "images")
    if found.ndim == 3:
        found = found[:, None]
    if found.ndim != 4 or not found.numel():
        raise ConfigurationError(
            f"images must have the shape (n, channels, height, width) or (n, height, width), got {tuple(found.shape)}"
        )
    # Whole numbers of 8 bits need no room for a comparison of each.
    if found.dtype != torch.uint8 or int(found.max()) >= levels:
        wrong = ~(
            (found >= 0) & (found < levels) & (found == found.floor() if found.is_floating_point() else found == found)
        )
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            raise ConfigurationError(
                f"pixels must be whole numbers from 0 to {levels - 1}, but image {place[0]} has "
                f"{found[tuple(place)].item():g} in channel {place[1]}, row {place[2]}, column {place[3]}"
            )
    return found.to(torch.float32), ()


def _numbers(given: Any, what: str) -> Tensor:
    """Real numbers on the CPU, without a graph, not shared with whoever gave them."""
    try:
        array = given if isinstance(given, Tensor) else torch.from_numpy(_native(np.asarray(given)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"{what} must be a tensor, an array or nested lists of numbers, all rows of one length, got {brief(given)}"
        ) from error
    if array.is_complex() or array.dtype == torch.bool or array.layout != torch.strided:
        kind = str(array.dtype if array.layout == torch.strided else array.layout).removeprefix("torch.")
        raise ArgumentTypeError(f"{what} must be real numbers, got {kind}")
    return array.detach().cpu().clone() if array is given else array


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in the byte order of this machine, the only one that torch knows."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
