"""Events as the rows of a table in a CSV or Parquet file: an id, a time, and numbers that each sequence has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicblocks.data.series.events import EventSet, outside_said, window_of
from dynamicblocks.data.series.files import check_order, columns_of_numbers
from dynamicblocks.data.series.tables import Table, read_table
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
    columns = tuple(columns_of_numbers(table, (id, time)) if initial is None else initial)
    times, ids = table.numbers(time), table.texts(id)
    known = {name: number for number, name in enumerate(dict.fromkeys(ids))}
    rows = np.argsort(owner := np.array([known[name] for name in ids]), kind="stable")
    parts = np.split(rows, np.searchsorted(owner[rows], np.arange(1, len(known))))
    for name, part in zip(known, parts, strict=True):
        missing = part[np.isnan(times[part])]
        if len(missing) and len(part) > 1:
            raise StorageError(
                f"{legible(path)}, {table.place(int(missing[0]))}: column {brief(time)}: a time of sequence "
                f"{brief(name)} is missing or NaN; leave the row out (a sequence without an event has one row)"
            )
    check_order(table, times, rows, owner, list(known))
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
    numbers = [_of_sequences(table, name, list(known), parts) for name in columns]
    return EventSet.of(
        [times[part[~np.isnan(times[part])]] for part in parts],
        t0=begin,
        t1=end,
        initial=np.stack(numbers, 1) if numbers else None,
        columns=columns or None,
        ids=tuple(known),
    )


def _of_sequences(table: Table, column: str, ids: list[str], parts: list[NDArray[np.intp]]) -> NDArray[np.float64]:
    """A number of each sequence, which stands in each of its rows."""
    values = table.numbers(column)
    for name, part in zip(ids, parts, strict=True):
        mine = values[part]
        wrong = np.flatnonzero(mine != mine[0])  # NaN, too
        if len(wrong):
            row = int(part[wrong[0]])
            said = "is missing" if np.isnan(values[row]) else f"is {values[row]:.9g}, and {mine[0]:.9g} before"
            raise StorageError(
                f"{legible(table.path)}, {table.place(row)}: column {brief(column)} of sequence {brief(name)} {said}; "
                "it must be one number in all rows of a sequence: leave it out, or name others by data.initial"
            )
    return values[[part[0] for part in parts]]
