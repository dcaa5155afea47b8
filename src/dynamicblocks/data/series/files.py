"""Series as the rows of a table in a CSV or Parquet file: an id, a time, and values, some of which may be missing."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.data.series.tables import Table, is_numeric, read_table
from dynamicblocks.errors import ConfigurationError, StorageError, brief
from dynamicblocks.extras import needed_for
from dynamicblocks.visible import legible

KINDS = {".csv": "csv", ".parquet": "parquet"}
"""Kinds of files by how their names end."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Args:
        id: of which series a row is; rows of a series need not stand together.
        time: when it was observed.
        values: what was observed; None for all other columns of numbers.
        label: a label of the series, the same in each of its rows; None where there are none.
    """

    id: str = "id"
    time: str = "time"
    values: tuple[str, ...] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.values is not None and not self.values:
            raise ConfigurationError("data.values must name one column at least, got none")
        names = [self.id, self.time, *(self.values or ()), *([] if self.label is None else [self.label])]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigurationError(
                f"the columns of id, time, values and label must differ, got {brief(twice[0])} twice"
            )


def read_series(path: Path, kind: str, columns: Columns | None = None, *, to_learn: bool = True) -> SeriesSet:
    """The series of a file, in the order in which each begins.

    Args:
        path: of the file.
        kind: csv or parquet.
        columns: which are what.
        to_learn: refuse columns that are constant or have no value; what is only predicted from may be so.

    Raises:
        MissingPackageError: pyarrow is not installed.
        StorageError: the file is missing or damaged, or its rows are not what they should be: the message says where.
    """
    columns = Columns() if columns is None else columns
    names = (columns.id,) if columns.label is None else (columns.id, columns.label)
    table = read_table(path, kind, names)
    for name in (columns.time, *(columns.values or ()), *names):
        table.found(name)
    features = _features(table, columns) if columns.values is None else columns.values
    times = _times(table, columns.time)
    ids = table.texts(columns.id)
    known = {name: number for number, name in enumerate(dict.fromkeys(ids))}
    rows = np.argsort(owner := np.array([known[name] for name in ids]), kind="stable")
    starts = np.searchsorted(owner[rows], np.arange(1, len(known)))
    parts = np.split(rows, starts)
    check_order(table, times, rows, owner, list(known))
    for name, part in zip(known, parts, strict=True):
        if len(part) < 2:
            raise StorageError(
                f"{legible(path)}, {table.place(int(part[0]))}: series {brief(name)} has one time; a series needs two "
                "at least: leave it out"
            )
    values = np.stack([_values(table, name) if to_learn else table.numbers(name) for name in features], 1)
    for name, part in zip(known, parts, strict=True):
        if np.isnan(values[part]).all():
            raise StorageError(f"{legible(path)}: all values of series {brief(name)} are missing; leave it out")
    return SeriesSet.of(
        [times[part] for part in parts],
        [values[part] for part in parts],
        features=features,
        ids=tuple(known),
        labels=None if columns.label is None else _labels(table, columns.label, list(known), parts),
    )


def encoded(series: SeriesSet, kind: str) -> bytes:
    """The bytes of a file that :func:`read_series` reads as these series.

    Args:
        series: their features and ids name columns and rows.
        kind: csv or parquet.

    Raises:
        MissingPackageError: pyarrow is not installed.
        ConfigurationError: a feature has the name of another column.
    """
    with needed_for(f"writing {kind} files"):
        import pyarrow as pa
        from pyarrow import csv, parquet
    row, place = (np.arange(series.times.shape[1]) < series.lengths.numpy()[:, None]).nonzero()
    names = ["id", "time", *series.features, *([] if series.labels is None else ["label"])]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"columns must differ, got {', '.join(names)}: give the features other names")
    values = series.values.numpy()[row, place]
    missing = ~series.observed.numpy()[row, place]
    given: list[Any] = [pa.array([series.ids[each] for each in row]), pa.array(series.times.numpy()[row, place])]
    given += [pa.array(values[:, each], mask=missing[:, each]) for each in range(len(series.features))]
    if series.labels is not None:
        labels = series.labels.tolist()
        given.append(pa.array([series.classes[labels[each]] for each in row]))
    table, buffer = pa.table(given, names=names), io.BytesIO()
    if kind == "csv":
        csv.write_csv(table, buffer)
    else:
        parquet.write_table(table, buffer)
    return buffer.getvalue()


def _features(table: Table, columns: Columns) -> tuple[str, ...]:
    """All columns of numbers that are nothing else."""
    taken = (columns.id, columns.time, columns.label)
    found = columns_of_numbers(table, taken)
    if not found:
        others = [name for name in table.columns if name not in taken]
        listed = ", ".join(map(brief, others[:10])) or "none"
        raise StorageError(
            f"{legible(table.path)}: there is no column of values beside {brief(columns.id)} and "
            f"{brief(columns.time)}: of the others ({listed}) none holds numbers"
        )
    return tuple(found)


def columns_of_numbers(table: Table, taken: Sequence[str | None]) -> list[str]:
    """The columns that hold numbers, also if not in all cells, but for those that are taken."""
    with needed_for(f"reading {table.kind} files"):
        import pyarrow as pa
    found = []
    for name in table.columns:
        if name in taken:
            continue
        kind = table.arrow.schema.field(name).type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if is_numeric(kind) or pa.types.is_null(kind) or (text and table.mixed(name)):
            found.append(name)
    return found


def _times(table: Table, column: str) -> NDArray[np.float64]:
    times = table.numbers(column)
    missing = np.flatnonzero(np.isnan(times))
    if len(missing):
        raise StorageError(
            f"{legible(table.path)}, {table.place(int(missing[0]))}: column {brief(column)}: a time is missing or NaN; "
            "leave the row out"
        )
    return times


def _values(table: Table, column: str) -> NDArray[np.float64]:
    """A column of which something can be learnt."""
    values = table.numbers(column)
    there = values[~np.isnan(values)]
    if not len(there):
        raise StorageError(f"{legible(table.path)}: all values of column {brief(column)} are missing; leave it out")
    if len(there) and there.min() == there.max():
        raise StorageError(
            f"{legible(table.path)}: column {brief(column)} is constant, {there[0]:g} in each row, so nothing can be "
            "learnt of it; leave it out, or name the others by data.values"
        )
    return values


def check_order(
    table: Table, times: NDArray[np.float64], rows: NDArray[np.intp], owner: NDArray[np.intp], ids: list[str]
) -> None:
    """Raise unless the times of each series increase from row to row."""
    same = owner[rows][1:] == owner[rows][:-1]
    wrong = np.flatnonzero(same & (np.diff(times[rows]) <= 0))
    if not len(wrong):
        return
    before, after = (int(rows[wrong[0] + next]) for next in (0, 1))
    said = f"{table.place(before, after)}: series {brief(ids[owner[before]])}"
    if times[before] == times[after]:
        raise StorageError(f"{legible(table.path)}, {said}: time {times[after]:.9g} repeats; leave one of the rows out")
    raise StorageError(
        f"{legible(table.path)}, {said}: time {times[after]:.9g} comes after {times[before]:.9g}; sort the rows by time"
    )


def _labels(table: Table, column: str, ids: list[str], parts: list[NDArray[np.intp]]) -> list[str]:
    """The label of each series."""
    given = table.texts(column)
    for name, part in zip(ids, parts, strict=True):
        other = next((row for row in part if given[row] != given[part[0]]), None)
        if other is not None:
            raise StorageError(
                f"{legible(table.path)}, {table.place(int(part[0]), int(other))}: series {brief(name)} has two labels, "
                f"{brief(given[part[0]])} and {brief(given[other])}"
            )
    return [given[part[0]] for part in parts]
