"""Points as the rows of a table in a CSV or Parquet file, or of arrays in .npy and .npz files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamicblocks.data.densities.points import PointSet
from dynamicblocks.data.tables import read_table
from dynamicblocks.errors import ConfigurationError, StorageError, brief
from dynamicblocks.memory import check_memory
from dynamicblocks.visible import legible, on_one_line

KINDS = {".csv": "csv", ".parquet": "parquet", ".npy": "npy", ".npz": "npz"}
"""Kinds of files by how their names end."""
KEYS = ("points", "context")
# Of a number in memory: as it is read, and as it is scaled.
BYTES_OF_A_NUMBER = 3 * 8


def read_points(
    path: Path, kind: str | None = None, *, values: Sequence[str] = (), context: Sequence[str] = ()
) -> PointSet:
    """The points of a file.

    Args:
        path: of the file.
        kind: csv, parquet, npy or npz; by default as its name ends.
        values: of a table, the columns that make a point; by default all columns of numbers that are no context. Of
            arrays, their names, as many as there are columns.
        context: of a table, the columns that a point is conditional on; of an .npz file, names for the columns of the
            array ``context``, which is read whenever it is there.

    Raises:
        ConfigurationError: the file's name ends in another way, or an option is not of such a file.
        StorageError: it is missing or damaged, or what it holds is not finite numbers.
    """
    found = KINDS.get(path.suffix.lower()) if kind is None else kind
    if found is None:
        raise ConfigurationError(f"points are read from files that end in {', '.join(KINDS)}, got {legible(path)}")
    if found in ("csv", "parquet"):
        return _of_table(path, found, values, context)
    return _of_arrays(path, found, values, context)


def _of_table(path: Path, kind: str, values: Sequence[str], context: Sequence[str]) -> PointSet:
    table = read_table(path, kind, ())
    for name in (*values, *context):
        table.found(name)
    features = tuple(values) or tuple(table.columns_of_numbers(tuple(context)))
    if not features:
        listed = ", ".join(map(brief, table.columns[:10]))
        raise StorageError(f"{legible(path)}: none of its columns ({listed}) holds numbers that could be points")
    columns = {}
    for name in (*features, *context):
        columns[name] = table.numbers(name)
        missing = np.flatnonzero(np.isnan(columns[name]))
        if len(missing):
            raise StorageError(
                f"{legible(path)}, {table.place(int(missing[0]))}: column {brief(name)}: a number is missing or NaN, "
                "and a density is of whole points; leave the row out, or fill it in"
            )
    return PointSet.of(
        np.stack([columns[name] for name in features], 1),
        np.stack([columns[name] for name in context], 1) if context else None,
        features=features,
        context_names=tuple(context) or None,
    )


def _of_arrays(path: Path, kind: str, values: Sequence[str], context: Sequence[str]) -> PointSet:
    expected = "an array (n, features)" if kind == "npy" else "arrays 'points' (n, features) and, if any, 'context'"
    try:
        if not path.is_file():
            raise StorageError(f"{legible(path)}: expected a .{kind} file, got none that is there")
        check_memory(path.stat().st_size * BYTES_OF_A_NUMBER // 8, f"the points of {legible(path)}")
        loaded = np.load(path, allow_pickle=False)
        if kind == "npy":
            if not isinstance(loaded, np.ndarray):
                raise StorageError(f"{legible(path)}: expected {expected}, got an archive; name it .npz")
            given = {"points": loaded}
        else:
            if isinstance(loaded, np.ndarray):
                raise StorageError(f"{legible(path)}: expected {expected}, got one array; name it .npy")
            with loaded:
                if "points" not in loaded:
                    listed = ", ".join(sorted(loaded)[:10]) or "none"
                    raise StorageError(f"{legible(path)}: expected {expected}; there are {listed}")
                given = {key: loaded[key] for key in KEYS if key in loaded}
    # What NumPy and zipfile raise on files that are damaged, or hold Python objects.
    except StorageError:
        raise
    except Exception as error:
        why = on_one_line(str(error)) or type(error).__name__
        raise StorageError(f"{legible(path)}: expected {expected}, got something else: {why[:200]}") from error
    for key, array in given.items():
        if array.dtype.kind not in "fiub":
            raise StorageError(f"{legible(path)}: {key} must be real numbers, got an array of {array.dtype}")
    if context and "context" not in given:
        raise StorageError(f"{legible(path)}: there is no array 'context' for data.context {', '.join(context)}")
    try:
        return PointSet.of(
            given["points"],
            given.get("context"),
            features=tuple(values) or None,
            context_names=tuple(context) or None,
        )
    except ConfigurationError as error:
        raise StorageError(f"{legible(path)}: {error}") from error
