"""Series to be predicted, as somebody has them."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.series import SeriesSet
from dynamicblocks.data.series.files import KINDS, Columns, read_series
from dynamicblocks.errors import ArgumentTypeError, ConfigurationError
from dynamicblocks.tasks.given import PATHS


def series_of(x: Any, features: tuple[str, ...], id: str, time: str) -> SeriesSet:
    """A SeriesSet, or the series of a table, with the features of the training.

    Raises:
        ArgumentTypeError: it is neither.
        ConfigurationError: it has other features, or the file is of another kind.
        StorageError: the file is missing or damaged.
    """
    if isinstance(x, list) and len(x) == 1:
        x = x[0]
    if isinstance(x, PATHS):
        path = Path(os.fsdecode(x))
        kind = KINDS.get(path.suffix.lower())
        if kind is None:
            raise ConfigurationError(f"series are read from files that end in {' or '.join(KINDS)}, got {path}")
        return read_series(path, kind, Columns(id, time, features), to_learn=False)
    if not isinstance(x, SeriesSet):
        raise ArgumentTypeError(
            f"x must be a SeriesSet (SeriesSet.of(times, values)) or a table ({', '.join(KINDS)}), got something of "
            f"type {type(x).__name__}"
        )
    if x.features != features:
        raise ConfigurationError(
            f"the run was trained on the features {', '.join(features)}, got series of {', '.join(x.features)}"
        )
    return x


def check_asked(times: Any) -> Tensor:
    """Times that somebody asks for.

    Raises:
        ConfigurationError: they are no finite numbers in a row, or do not increase.
    """
    try:
        found = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"times must be numbers that increase, got {times!r:.80}") from error
    if found.ndim != 1 or not len(found) or not bool(torch.isfinite(found).all()) or bool((found.diff() <= 0).any()):
        raise ConfigurationError(
            f"times must be finite numbers that increase, of shape (length,), got shape {tuple(found.shape)}: "
            f"{found.flatten()[:5].tolist()}"
        )
    return found


def asked_at(series: SeriesSet, asked: Tensor, near: float) -> tuple[SeriesSet, Tensor]:
    """The series with these times among theirs, at which nothing is seen; and where those are, (n, length).

    A time that is as ``near`` to one of a series is taken for it: a network could not tell them apart.
    """
    times, values, places = [], [], []
    for row, length in enumerate(series.lengths.tolist()):
        own = series.times[row, :length]
        closest = own[(asked[:, None] - own).abs().argmin(1)]
        meant = closest.where((asked - closest).abs() <= near, asked)
        both = torch.cat([own, meant]).sort().values
        both = both[torch.cat([both.new_ones(1), both.diff()]) > 0]
        table = torch.full((len(both), len(series.features)), torch.nan, dtype=torch.float64)
        given = series.observed[row, :length] & series.seen[row, :length, None]
        table[torch.searchsorted(both, own)] = series.values[row, :length].where(given, torch.nan)
        times.append(both)
        values.append(table)
        places.append(torch.searchsorted(both, meant))
    found = SeriesSet.of(times, values, features=series.features, ids=series.ids)
    return found, torch.stack(places)
