"""Events as the rows of a table in a CSV or Parquet file: an id, a time, and numbers that each sequence has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicblocks.data.series.checks import exact
from dynamicblocks.data.series.events import EventSet, outside_said, window_of
from dynamicblocks.data.series.groups import Groups, grouped
from dynamicblocks.data.tables import read_table
from dynamicblocks.errors import StorageError, brief
from dynamicblocks.visible import legible


def read_events(
    path: Path,
    kind: str,
    *,
    id: str = "id",
    time: str = "time",
    initial: Sequence[str] | None = None,
    t0: float | None = None,
    t1: float | None = None,
    to_learn: bool = True,
) -> EventSet:
    """The sequences of a file, in the order in which each begins.

    The times of a sequence increase from row to row. A sequence without an event has one row, its time empty.

    Args:
        path: of the file.
        kind: csv or parquet.
        id, time: columns.
        initial: columns of numbers that are the same in each row of a sequence; by default all others of numbers.
        t0, t1: the window; by default from the first event to the last.
        to_learn: refuse a file without an event; what is only predicted from may be so.

    Raises:
        MissingPackageError: pyarrow is not installed.
        ConfigurationError: the window has no length.
        StorageError: the file is missing or damaged, or its rows are not what they should be: the message says where.
    """
    table = read_table(path, kind, (id,))
    for name in (id, time, *(initial or ())):
        table.found(name)
    columns = tuple(table.columns_of_numbers((id, time)) if initial is None else initial)
    times, groups = table.times(time), grouped(table, id, "sequence")
    for number, part in enumerate(groups.parts):
        missing = part[np.isnan(times[part])]
        if len(missing) and len(part) > 1:
            raise StorageError(
                f"{legible(path)}, {table.place(int(missing[0]))}: column {brief(time)}: a time of "
                f"{groups.named(number)} is missing or NaN; leave the row out (a sequence without an event has one row)"
            )
    groups.check_order(times, time)
    there = np.flatnonzero(~np.isnan(times))
    if to_learn:
        begin, end = window_of([torch.from_numpy(times[there])], t0, t1)
    else:  # one that holds all there is
        begin = float(times[there].min(initial=0.0))
        end = float(times[there].max(initial=begin + 1.0))
    outside = there[(times[there] < begin) | (times[there] > end)]
    if len(outside):
        where = f"{legible(path)}, {table.place(int(outside[0]))}"
        raise StorageError(outside_said(where, float(times[outside[0]]), begin, end))
    numbers = [_of_sequences(groups, name) for name in columns]
    return EventSet.of(
        [times[part[~np.isnan(times[part])]] for part in groups.parts],
        t0=begin,
        t1=end,
        initial=np.stack(numbers, 1) if numbers else None,
        columns=columns or None,
        ids=groups.ids,
    )


def _of_sequences(groups: Groups, column: str) -> NDArray[np.float64]:
    """A number of each sequence, which stands in each of its rows."""
    table, values = groups.table, groups.table.numbers(column)
    for number, part in enumerate(groups.parts):
        mine = values[part]
        wrong = np.flatnonzero(mine != mine[0])  # NaN, too
        if len(wrong):
            row = int(part[wrong[0]])
            said = "is missing" if np.isnan(values[row]) else f"is {exact(values[row])}, and {exact(mine[0])} before"
            raise StorageError(
                f"{legible(table.path)}, {table.place(row)}: column {brief(column)} of {groups.named(number)} {said}; "
                "it must be one number in all rows of a sequence: leave it out, or name others by data.initial"
            )
    return values[[part[0] for part in groups.parts]]
