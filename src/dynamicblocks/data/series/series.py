"""Time series, each with times of its own and with values that may be missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicblocks.data.series.checks import padded
from dynamicblocks.errors import ConfigurationError


class SeriesBatch(NamedTuple):
    """Series as a network sees them, padded to the longest of them.

    Args:
        times: (n, length), strictly increasing in each series; behind its end the last time is repeated.
        values: (n, length, features); zero where nothing was observed.
        seen: (n, length, features), bool: what is observed and given to the network.
        wanted: (n, length, features), bool: what is observed and has to be told.
        labels: (n,), int64; -1 where there are none.
        progress: (), the share of the training that lies behind; one in evaluation.
    """

    times: Tensor
    values: Tensor
    seen: Tensor
    wanted: Tensor
    labels: Tensor
    progress: Tensor


@dataclass(frozen=True)
class SeriesSet:
    """Time series: times of their own, of any number, values that may be missing, perhaps a label each.

    Made by :meth:`of`, which checks; the fields are padded as in :class:`SeriesBatch`.

    Args:
        times: (n, length), float64.
        values: (n, length, features), float64.
        observed: (n, length, features), bool.
        lengths: (n,), int64: how many times each has.
        seen: (n, length), bool: times that a network is given.
        wanted: (n, length), bool: times that it is asked for.
        features: a name for each.
        ids: a name for each series.
        labels: (n,), int64, or None.
        classes: a name for each label.
    """

    times: Tensor
    values: Tensor
    observed: Tensor
    lengths: Tensor
    seen: Tensor
    wanted: Tensor
    features: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        times: Sequence[Any] | Tensor,
        values: Sequence[Any] | Tensor,
        *,
        observed: Sequence[Any] | Tensor | None = None,
        labels: Sequence[Any] | Tensor | None = None,
        features: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
    ) -> "SeriesSet":
        """Series from times and values.

        Args:
            times: those of each series, ``(length,)``; or those of all, of shape ``(length,)``.
            values: of each series, ``(length, features)`` or ``(length,)``; NaN where missing. Or ``(n, length,
                features)``.
            observed: of each series, bool, in the shape of its values; by default what is not NaN.
            labels: of each series: whole numbers or names.
            features: their names; by default x0, x1, ...
            ids: names of the series; by default their numbers.
            classes: the names of all classes, in order; by default the labels there are, sorted.

        Raises:
            ConfigurationError: a series has fewer than two times, times that do not increase, or no value at all; a
                value is infinite, or sizes do not go together. The message names the series.
        """
        return cls(**padded(times, values, observed, labels, features, ids, classes))

    def __len__(self) -> int:
        return len(self.times)

    def select(self, rows: Tensor) -> "SeriesSet":
        """Some of the series, their padding cut to the longest of them."""
        length = int(self.lengths[rows].max()) if len(rows) else 0
        return replace(
            self,
            times=self.times[rows, :length],
            values=self.values[rows, :length],
            observed=self.observed[rows, :length],
            lengths=self.lengths[rows],
            seen=self.seen[rows, :length],
            wanted=self.wanted[rows, :length],
            ids=tuple(self.ids[row] for row in rows.tolist()),
            labels=None if self.labels is None else self.labels[rows],
        )

    def batch(self, progress: float = 1.0) -> SeriesBatch:
        """All of them, as a network sees them."""
        labels = torch.full((len(self),), -1) if self.labels is None else self.labels
        return SeriesBatch(
            self.times,
            self.values,
            self.observed & self.seen[..., None],
            self.observed & self.wanted[..., None],
            labels,
            torch.tensor(progress),
        )


def check_not_empty(series: SeriesSet, what: str) -> None:
    """Raise unless there is a series."""
    if not len(series):
        raise ConfigurationError(f"{what} holds no series; give one at least")
