"""The rows of a table that belong together: those of a series, or of a sequence of events."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.data.series.checks import exact
from dynamicblocks.data.tables import Table
from dynamicblocks.errors import StorageError, brief
from dynamicblocks.visible import legible


@dataclass(frozen=True)
class Groups:
    """The rows of each id of a table, in the order in which each begins; they need not stand together.

    Args:
        table: the table.
        what: an id stands for, such as series, for messages.
        ids: all, each once.
        parts: the rows of each, in the order of the file.
    """

    table: Table
    what: str
    ids: tuple[str, ...]
    parts: tuple[NDArray[np.intp], ...]

    def named(self, number: int) -> str:
        """A series as a message names it."""
        return f"{self.what} {brief(self.ids[number])}"

    def check_order(self, times: NDArray[np.float64], column: str) -> None:
        """Raise unless the times of each increase from row to row."""
        rows = np.concatenate(self.parts)
        owner = np.repeat(np.arange(len(self.parts)), [len(part) for part in self.parts])
        wrong = np.flatnonzero((owner[1:] == owner[:-1]) & (np.diff(times[rows]) <= 0))
        if not len(wrong):
            return
        before, after = (int(rows[wrong[0] + next]) for next in (0, 1))
        cells = self.table.arrow.column(column)
        where = f"{legible(self.table.path)}, {self.table.place(before, after)}: {self.named(owner[wrong[0]])}"
        if times[before] > times[after]:
            raise StorageError(
                f"{where}: time {exact(times[after])} comes after {exact(times[before])}; sort the rows by time"
            )
        if cells[before].equals(cells[after]):
            raise StorageError(f"{where}: time {exact(times[after])} repeats; leave one of the rows out")
        said = " and ".join(str(cells[row].cast("string")) for row in (before, after))
        raise StorageError(f"{where}: times {said} are one in float64; count them from a later beginning")


def grouped(table: Table, column: str, what: str) -> Groups:
    """The rows of a table by their ids.

    Raises:
        StorageError: an id is missing.
    """
    ids = table.texts(column)
    known = {name: number for number, name in enumerate(dict.fromkeys(ids))}
    owner = np.array([known[name] for name in ids])
    rows = np.argsort(owner, kind="stable")
    parts = np.split(rows, np.searchsorted(owner[rows], np.arange(1, len(known))))
    return Groups(table, what, tuple(known), tuple(parts))
