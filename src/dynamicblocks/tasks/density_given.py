"""Points of which the density is asked, and contexts of points that are drawn, as somebody has them."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.data.densities.files import KINDS, read_points
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.given import PATHS
from dynamicblocks.training.predicting import tensor_of

POINT_ENDINGS = tuple(KINDS)


def handed_points(given: Any) -> PointSet:
    """The points of a training, from Python: a PointSet, an array (n, features), or a pair of that and a context."""
    if isinstance(given, PointSet):
        return given
    points, context = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    return PointSet.of(points, context)


def given_points(x: Any, context: Any, known: DensityFacts) -> tuple[Tensor, Tensor | None]:
    """The points (n, *shape) that are meant, and their context (n, c), both float64 on the CPU.

    Args:
        x: a PointSet; a file (.csv, .parquet, .npy, .npz) with the columns of the training; or numbers (n, *shape).
        context: (n, c), or one for all; None where there is none, or a file or PointSet holds it.
        known: of the points of the training.

    Raises:
        ConfigurationError: it is nothing of these, of another shape, or not finite.
        StorageError: a file is missing or damaged.
    """
    if isinstance(x, list) and len(x) == 1 and isinstance(x[0], PATHS):
        x = x[0]
    if isinstance(x, PATHS):
        x = _read(Path(os.fsdecode(x)), known, with_context=context is None)
    names = f" ({', '.join(known.features)})" if 1 < len(known.features) <= 20 else ""
    expected = f"numbers (n, {', '.join(map(str, known.shape))}){names}, a file of them, or a PointSet"
    if isinstance(x, PointSet):
        if known.features and tuple(x.features) != known.features:
            raise ConfigurationError(
                f"the run was trained on {', '.join(known.features)}, got points of {', '.join(x.features)}"
            )
        x, context = x.points, x.context if context is None else context
    points = tensor_of(x, expected).double().cpu()
    if points.ndim == len(known.shape):
        points = points[None]
    if tuple(points.shape[1:]) != known.shape or not len(points):
        raise ConfigurationError(f"x must be {expected}; got shape {tuple(points.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise ConfigurationError("points must be finite numbers, got NaN or infinity")
    if known.levels and not bool(((points == points.round()) & (points >= 0) & (points < known.levels)).all()):
        raise ConfigurationError(
            f"pixels must be whole numbers from 0 to {known.levels - 1}, as in training; got some that are not, from "
            f"{points.min():g} to {points.max():g}"
        )
    return points, given_context(context, known, len(points))


def given_context(context: Any, known: DensityFacts, number: int) -> Tensor | None:
    """A context (number, c), float64, of one for each point or one for all.

    Raises:
        ConfigurationError: there is none where the run was trained with one, or one where it was not, or it is of
            another shape.
    """
    names = known.context_names
    if not names:
        if context is None:
            return None
        raise ConfigurationError("the run was trained without a context (data.context), so leave it out")
    expected = f"a context (n, {len(names)}) or ({len(names)},): {', '.join(names)}"
    if context is None:
        raise ConfigurationError(f"the run's densities are conditional: give {expected}")
    found = tensor_of(torch.tensor(context) if isinstance(context, list | tuple) else context, expected).double().cpu()
    if found.ndim < 2:
        # One number is a context of one column; several are one of as many, or of one column for each point.
        found = found.reshape(1, -1) if found.numel() == len(names) else found.reshape(-1, 1)
    if found.ndim != 2 or found.shape[1] != len(names) or len(found) not in (1, number):
        raise ConfigurationError(f"context must be {expected}, here n is {number} or 1; got {tuple(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ConfigurationError("a context must be finite numbers, got NaN or infinity")
    return found.expand(number, -1)


def _read(path: Path, known: DensityFacts, *, with_context: bool) -> PointSet:
    """The points of a file, with the columns of the training; of a table the context is among them."""
    table = KINDS.get(path.suffix.lower()) in ("csv", "parquet")
    if table and not known.features:
        raise ConfigurationError(f"images are read from .npy and .npz files, and {path} is a table")
    return read_points(path, values=known.features, context=known.context_names if table and with_context else ())
