"""Tables in CSV and Parquet files, read with pyarrow and checked before they are believed."""

import csv
import re
import stat
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.errors import StorageError, brief
from dynamicblocks.extras import needed_for
from dynamicblocks.memory import check_memory
from dynamicblocks.visible import legible, on_one_line

# pyarrow guesses the types of columns from one block; all of a file is one, up to what it allows.
LONGEST_BLOCK = 2**31 - 1
# Of a number in memory: as it is read, as it is scaled, and in between.
BYTES_OF_A_NUMBER = 3 * 8
# What stands for a missing number, as pyarrow has it in columns of numbers.
MISSING = frozenset(("", "#N/A", "#NA", "-NaN", "-nan", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"))
# Of a second, as pyarrow names them.
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# What pandas calls row numbers in Parquet files.
INDEX = re.compile(r"__index_level_\d+__")
COMMAS = "; columns are separated by commas, and decimals by a point"
# Names in a message, at most.
MOST_COLUMNS = 10


@dataclass(frozen=True)
class Table:
    """A table of a file, and where each of its rows stands there.

    Args:
        path: of the file.
        kind: csv or parquet.
        arrow: the ``pyarrow.Table``.
    """

    path: Path
    kind: str
    arrow: Any

    @property
    def columns(self) -> list[str]:
        """Their names."""
        return list(self.arrow.column_names)

    def place(self, *rows: int) -> str:
        """Where rows, counted from zero, stand in the file, as a message says it."""
        if self.kind == "csv":
            return "line" + _listed(_lines(self.path, rows))
        return "row" + _listed([row + 1 for row in rows])

    def texts(self, column: str) -> list[str]:
        """A column of names, such as ids.

        Raises:
            StorageError: one of them is missing.
        """
        given = self.arrow.column(self.found(column)).to_pylist()
        for row, each in enumerate(given):
            if each is None or each == "" or each != each:
                raise StorageError(f"{legible(self.path)}, {self.place(row)}: column {brief(column)} is empty")
        return [each if isinstance(each, str) else str(each) for each in given]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column of numbers, NaN where one is missing; dates are seconds since 1970, times of a day since midnight.

        Raises:
            StorageError: it holds something else, or infinity.
        """
        with needed_for(f"reading {self.kind} files"):
            import pyarrow as pa
        values, types = self.arrow.column(self.found(column)), pa.types
        kind = values.type
        if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind):
            raise self._no_number(column, values)
        if types.is_temporal(kind) and not types.is_interval(kind):
            return _seconds(values)
        if not _is_numeric(kind) and not types.is_null(kind):
            raise StorageError(f"{legible(self.path)}: column {brief(column)} holds no numbers, but {kind}")
        if types.is_boolean(kind):
            values = values.cast(pa.int8())
        numbers = _array(values.cast(pa.float64(), safe=False))
        infinite = np.flatnonzero(np.isinf(numbers))
        if len(infinite):
            raise StorageError(
                f"{legible(self.path)}, {self.place(int(infinite[0]))}: column {brief(column)} holds infinity; numbers "
                "must be finite, or missing"
            )
        return numbers

    def times(self, column: str) -> NDArray[np.float64]:
        """The same of a column of times, which are not true or false.

        Raises:
            StorageError: it holds something else, or infinity.
        """
        found = self.numbers(column)
        if str(self.arrow.column(column).type) == "bool":
            raise StorageError(f"{legible(self.path)}: column {brief(column)} holds no times, but true and false")
        return found

    def columns_of_numbers(self, taken: Sequence[str | None]) -> list[str]:
        """The columns that hold numbers, also if not in all cells, but for those that are taken.

        Raises:
            StorageError: one of them has no name, as the row numbers that pandas writes.
        """
        with needed_for(f"reading {self.kind} files"):
            import pyarrow as pa
        found = []
        for name, kind in zip(self.columns, self.arrow.schema.types, strict=True):
            text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if name not in taken and (_is_numeric(kind) or pa.types.is_null(kind) or (text and self._mixed(name))):
                found.append(name)
        nameless = next((name for name in found if not name.strip() or INDEX.fullmatch(name)), None)
        if nameless is not None:
            raise StorageError(
                f"{legible(self.path)}: column number {self.columns.index(nameless) + 1} has no name, as the row "
                "numbers that pandas writes: leave it out (index=False), or name it, or say which columns to read"
            )
        return found

    def _mixed(self, column: str) -> bool:
        """Whether a column of text holds numbers as well: one that was meant to be of numbers."""
        return any(_is_number(each) for each in self.arrow.column(column).to_pylist() if each not in MISSING)

    def found(self, column: str) -> str:
        """The name of a column that is there.

        Raises:
            StorageError: it is not there; the message says which are.
        """
        if column not in self.columns:
            listed = ", ".join(brief(each) for each in self.columns[:MOST_COLUMNS])
            more = ", ..." if len(self.columns) > MOST_COLUMNS else ""
            comma = COMMAS if len(self.columns) == 1 and self.kind == "csv" else ""
            raise StorageError(
                f"{legible(self.path)}: there is no column {brief(column)}; there are {listed}{more}{comma}"
            )
        return column

    def _no_number(self, column: str, values: Any) -> StorageError:
        """The first cell of a column that is none."""
        for row, each in enumerate(values.to_pylist()):
            if each is not None and each not in MISSING and not _is_number(each):
                return StorageError(
                    f"{legible(self.path)}, {self.place(row)}: column {brief(column)} holds {brief(each)}, which is no "
                    "number; leave a cell empty where a value is missing"
                )
        return StorageError(f"{legible(self.path)}: column {brief(column)} holds text; store it as numbers")


def _is_numeric(kind: Any) -> bool:
    """Whether a type of pyarrow's is one of numbers."""
    import pyarrow as pa

    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def read_table(path: Path, kind: str, texts: tuple[str, ...]) -> Table:
    """The table of a file, with at least one row.

    Args:
        path: of a file.
        kind: csv (in UTF-8, columns separated by commas, a first line of names) or parquet.
        texts: columns that are names, whatever they look like.

    Raises:
        MissingPackageError: pyarrow is not installed.
        StorageError: the file is missing or damaged, holds no rows, or two columns have one name.
    """
    with needed_for(f"reading {kind} files"):
        import pyarrow as pa
    size = _size(path, kind)
    try:
        arrow = _read_csv(path, size, texts) if kind == "csv" else _read_parquet(path)
        names = list(arrow.column_names)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if kind == "csv":
            _check_text(path)
            _check_widths(path)
        why = on_one_line(str(error)) or type(error).__name__
        raise StorageError(f"{legible(path)}: expected a whole {kind} file, got something else: {why[:200]}") from error
    if kind == "csv" and any(pa.types.is_binary(each) for each in arrow.schema.types):
        _check_text(path)
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise StorageError(f"{legible(path)}: there are two columns {brief(twice[0])}: give each a name of its own")
    if not arrow.num_rows:
        raise StorageError(f"{legible(path)}: there are names of columns, but no rows")
    return Table(path, kind, arrow)


def _size(path: Path, kind: str) -> int:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"{legible(path)}: expected a {kind} file, got none that can be opened: {why}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StorageError(f"{legible(path)}: expected a {kind} file, got something that is no file")
    if not found.st_size:
        raise StorageError(f"{legible(path)}: the file is empty; expected a line of names, and rows")
    return found.st_size


def _read_csv(path: Path, size: int, texts: tuple[str, ...]) -> Any:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    # Two characters make a number: a digit and a comma.
    check_memory(size // 2 * BYTES_OF_A_NUMBER, f"the table of {legible(path)}")
    return arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=min(size + 1, LONGEST_BLOCK)),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types={name: pa.string() for name in texts}),
    )


def _read_parquet(path: Path) -> Any:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        rows, columns = file.metadata.num_rows, file.metadata.num_columns
        check_memory(rows * columns * BYTES_OF_A_NUMBER, f"the table of {legible(path)}")
        return file.read(use_threads=False)


def _check_text(path: Path) -> None:
    """Raise for a file that is no text in UTF-8, or holds a line of names at most: there pyarrow's word is no help."""
    not_utf8 = StorageError(f"{legible(path)}: expected text in UTF-8, got bytes that are none; save it as UTF-8")
    lines = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if "\0" in line:
                    raise not_utf8
                lines += bool(line.strip())
    except UnicodeDecodeError as error:
        raise not_utf8 from error
    if lines < 2:
        said = "there are names of columns, but no rows" if lines else "expected a line of names, and rows; got no line"
        raise StorageError(f"{legible(path)}: {said}")


def _check_widths(path: Path) -> None:
    """Raise for a line of a CSV file that has more or fewer cells than there are names."""
    with path.open(encoding="utf-8-sig", newline="") as file, suppress(csv.Error):
        reader = filter(None, lines := csv.reader(file))
        names = len(next(reader))
        for cells in reader:
            if len(cells) != names:
                raise StorageError(
                    f"{legible(path)}, line {lines.line_num}: expected as many cells as there are names, {names}, got "
                    f"{len(cells)}: {brief(','.join(cells))}{COMMAS if names == 1 else ''}"
                )


def _seconds(values: Any) -> NDArray[np.float64]:
    """Dates, times and durations in seconds, NaN where one is missing, rounded once."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_date32(kind):
        values = values.cast(pa.timestamp("s"))
    unit = UNITS["ms" if pa.types.is_date64(kind) else getattr(values.type, "unit", "s")]
    whole = values.cast(pa.int32()) if pa.types.is_time32(kind) else values
    count = whole.cast(pa.int64()).fill_null(0).to_numpy()
    return np.where(values.is_null().to_numpy(zero_copy_only=False), np.nan, count // unit + count % unit / unit)


def _array(values: Any) -> NDArray[np.float64]:
    """NaN for what is missing; a copy, which may be written."""
    return np.array(values.to_numpy(zero_copy_only=False), dtype=np.float64) if len(values) else np.empty(0)


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _lines(path: Path, rows: tuple[int, ...]) -> list[int]:
    """The lines of a CSV file in which these rows end; empty lines are no rows."""
    found: dict[int, int] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file, suppress(csv.Error):
        reader = csv.reader(file)
        for row, _ in enumerate(filter(None, reader), start=-1):
            if row in rows:
                found[row] = reader.line_num
            if len(found) == len(set(rows)):
                break
    return [found.get(row, row + 2) for row in rows]


def _listed(numbers: list[int]) -> str:
    return f" {numbers[0]}" if len(numbers) == 1 else f"s {' and '.join(map(str, numbers))}"
