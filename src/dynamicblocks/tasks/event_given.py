"""Sequences of which the rate is asked, as somebody has them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.series.events import EventSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.given import PATHS
from dynamicblocks.training.predicting import tensor_of


@dataclass(frozen=True)
class NoEvents:
    """The numbers of sequences of which no times are known: (n, columns), float64."""

    initial: Tensor

    def __len__(self) -> int:
        return len(self.initial)

    @property
    def ids(self) -> tuple[str, ...]:
        """Their numbers."""
        return tuple(map(str, range(len(self))))

    @property
    def times(self) -> Tensor:
        """None of each."""
        return self.initial[:, :0]

    @property
    def lengths(self) -> Tensor:
        """Zeros."""
        return torch.zeros(len(self), dtype=torch.int64)


def given_events(x: Any, columns: tuple[str, ...], id: str, time: str) -> EventSet | NoEvents:
    """The sequences that are meant, with the columns of the training.

    Args:
        x: an EventSet, a table, or the numbers of each sequence.
        columns: their names.
        id, time: columns of a table.

    Raises:
        ConfigurationError: it is nothing of these, or it has other columns.
        StorageError: a file is missing or damaged.
    """
    if isinstance(x, list) and len(x) == 1 and isinstance(x[0], PATHS):
        x = x[0]
    if isinstance(x, PATHS):
        # Its reader needs an extra, which numbers do not.
        from dynamicblocks.data.series.event_files import read_events
        from dynamicblocks.data.series.files import KINDS

        path = Path(os.fsdecode(x))
        if path.suffix.lower() not in KINDS:
            raise ConfigurationError(f"tables of events end in {' or '.join(KINDS)}, got {path}")
        return read_events(path, KINDS[path.suffix.lower()], id=id, time=time, initial=columns, to_learn=False)
    if isinstance(x, EventSet):
        if x.columns != columns:
            raise ConfigurationError(
                f"the run was trained with the columns {', '.join(columns) or 'none'}, got "
                f"{', '.join(x.columns) or 'none'}"
            )
        return x
    expected = (
        f"an EventSet, a table (.csv, .parquet), or numbers (n, {len(columns)})"
        f"{': ' if columns else ', as torch.zeros(1, 0)'}{', '.join(columns)}"
    )
    numbers = tensor_of(x, expected).double().cpu()
    if numbers.ndim != 2 or numbers.shape[1] != len(columns) or not bool(torch.isfinite(numbers).all()):
        raise ConfigurationError(
            f"x must be {expected}, all finite; got {tuple(numbers.shape)}"
            + ("" if bool(torch.isfinite(numbers).all()) else ", some not finite")
        )
    return NoEvents(numbers)
