"""Series in three splits."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dynamicblocks.data.series.series import SeriesSet

Truth = Callable[[SeriesSet], Tensor]


@dataclass(frozen=True)
class SeriesDataset:
    """Series in three splits.

    Args:
        train, validation, test: the splits, in the units of the data.
        note: where the series come from and how they were split, for the record of a run.
        truth: of series that were made: the values without noise, (n, length, features), of series of this data set
            (by their ids) at whatever times they have; else None.
    """

    train: SeriesSet
    validation: SeriesSet
    test: SeriesSet
    note: str
    truth: Truth | None = None
