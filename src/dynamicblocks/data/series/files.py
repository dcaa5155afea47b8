"""Series as the rows of a table in a CSV or Parquet file: an id, a time, and values, some of which may be missing."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.data.series.groups import Groups, grouped
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.data.tables import Table, read_table
from dynamicblocks.errors import ConfigurationError, StorageError, brief, unknown_name
from dynamicblocks.extras import needed_for
from dynamicblocks.visible import legible

KINDS = {".csv": "csv", ".parquet": "parquet"}
"""Kinds of files by how their names end."""


def source_of(name: str, what: str, made: Iterable[str]) -> tuple[str, str] | None:
    """The kind and path of ``csv:PATH`` or ``parquet:PATH``; None for the name of a set that is made.

    Args:
        name: as somebody wrote it.
        what: a set is, for messages.
        made: names of those that are made.

    Raises:
        ConfigurationError: it is neither; the message says what there is.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"the name of a {what} must be text, got {brief(name)}")
    known = list(made)
    if name in known:
        return None
    kind, colon, where = name.partition(":")
    if colon and where and kind in KINDS.values():
        return kind, where
    meant = KINDS.get(Path(name).suffix.lower())
    if meant and not colon:
        raise ConfigurationError(f"unknown {what} {name!r}; did you mean {meant}:{name}?")
    raise unknown_name(what, name, [*known, *(f"{each}:PATH" for each in KINDS.values())])


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
    times = table.times(columns.time)
    missing = np.flatnonzero(np.isnan(times))
    if len(missing):
        raise StorageError(
            f"{legible(path)}, {table.place(int(missing[0]))}: column {brief(columns.time)}: a time is missing or NaN; "
            "leave the row out"
        )
    groups = grouped(table, columns.id, "series")
    groups.check_order(times, columns.time)

    def where(number: int) -> str:
        return f"{legible(path)}, {table.place(int(groups.parts[number][0]))}: {groups.named(number)}"

    # A series of one time makes a small table's columns constant: the first is what is said.
    for number, part in enumerate(groups.parts):
        if len(part) < 2:
            raise StorageError(f"{where(number)} has one time; a series needs two at least: leave it out")
    values = np.stack([_values(table, name) if to_learn else table.numbers(name) for name in features], 1)
    for number, part in enumerate(groups.parts):
        if np.isnan(values[part]).all():
            raise StorageError(f"{where(number)}: all its values are missing; leave it out")
    return SeriesSet.of(
        [times[part] for part in groups.parts],
        [values[part] for part in groups.parts],
        features=features,
        ids=groups.ids,
        labels=None if columns.label is None else _labels(groups, columns.label),
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
    found = table.columns_of_numbers(taken)
    if not found:
        others = [name for name in table.columns if name not in taken]
        listed = ", ".join(map(brief, others[:10])) or "none"
        raise StorageError(
            f"{legible(table.path)}: there is no column of values beside {brief(columns.id)} and "
            f"{brief(columns.time)}: of the others ({listed}) none holds numbers"
        )
    return tuple(found)


def _values(table: Table, column: str) -> NDArray[np.float64]:
    """A column of which something can be learnt."""
    values = table.numbers(column)
    there = values[~np.isnan(values)]
    if not len(there):
        raise StorageError(f"{legible(table.path)}: all values of column {brief(column)} are missing; leave it out")
    if there.min() == there.max():
        raise StorageError(
            f"{legible(table.path)}: column {brief(column)} is constant, {there[0]:g} in each row, so nothing can be "
            "learnt of it; leave it out, or name the others by data.values"
        )
    return values


def _labels(groups: Groups, column: str) -> list[str]:
    """The label of each series."""
    table, given = groups.table, groups.table.texts(column)
    for number, part in enumerate(groups.parts):
        other = next((row for row in part if given[row] != given[part[0]]), None)
        if other is not None:
            raise StorageError(
                f"{legible(table.path)}, {table.place(int(part[0]), int(other))}: {groups.named(number)} has two "
                f"labels in column {brief(column)}, {brief(given[part[0]])} and {brief(given[other])}"
            )
    return [given[part[0]] for part in groups.parts]
