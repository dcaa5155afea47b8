"""Tables, in plain text: nothing in them is ever cut, however narrow the terminal is."""

import os
import shutil
import sys
from collections.abc import Sequence
from textwrap import wrap

from dynamicblocks.visible import columns, visible

GAP = 2
# Prose gets no narrower than this, and no wider where no terminal says how wide that may be.
NARROW, PAGE = 30, 80


def table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: int | None = None,
    prose: bool = False,
    width: int | None = None,
) -> str:
    """Columns as wide as their widest cell, under a title; or each row in lines of its own, where these are too wide.

    Args:
        title: what it is of.
        head: a heading for each column, which may take several lines.
        rows: the cells, each of them on one line.
        text: how many of the first columns are text; the others hold numbers, to the right. All, if None.
        prose: whether the last column is made of sentences, which may take several lines.
        width: columns of the terminal; None for :func:`terminal_width`.

    >>> print(table("Integrators", ("name", "order"), [("euler", "1"), ("rk4", "4")]))
    Integrators
    <BLANKLINE>
    name   order
    -----  -----
    euler  1
    rk4    4
    >>> print(table("Runs", ("integrator", "samples/s"), [("dopri5(rtol=0.001, atol=0.0001)", "12")], width=40))
    Runs
    <BLANKLINE>
    integrator  dopri5(rtol=0.001, atol=0.0001)
    samples/s   12
    """
    available = terminal_width() if width is None else width
    head, rows = [visible(cell) for cell in head], [[visible(cell) for cell in row] for row in rows]
    whole = rows
    if prose:
        rows = _folded(head, rows, available)
    if available is not None and _whole(head, rows) > available:
        # Numbers are narrower than what is written over them.
        headings = [_words(cell, 1) for cell in head]
        if _whole([max(lines, key=columns) for lines in headings], rows) > available:
            return "\n".join([visible(title), "", *_one_by_one(head, whole, available if prose else None)])
    else:
        headings = [[cell] for cell in head]
    return "\n".join([visible(title), "", *_lines(headings, rows, len(head) if text is None else text)])


def terminal_width() -> int | None:
    """Columns of the terminal, or what COLUMNS says; None for a pipe or a file, which has no width."""
    written = os.environ.get("COLUMNS", "")
    if written.isdecimal() and int(written):
        return int(written)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def folded(text: str) -> str:
    """A sentence on as many lines as the terminal asks for."""
    return "\n".join(_words(text, terminal_width() or len(text) + 1))


def _whole(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """How wide a table is with so wide a head."""
    return sum(_widths([[cell] for cell in head], rows)) + GAP * (len(head) - 1)


def _widths(headings: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(columns(cell) for cell in (*heading, *(row[place] for row in rows)))
        for place, heading in enumerate(headings)
    ]


def _lines(headings: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], text: int) -> list[str]:
    widths, height = _widths(headings, rows), max(map(len, headings))
    # Headings stand on the rule, however many lines others take.
    head = [
        [lines[place - height + len(lines)] if place >= height - len(lines) else "" for lines in headings]
        for place in range(height)
    ]
    lines = []
    for cells in (*head, ["-" * width for width in widths], *rows):
        padded = []
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            space = " " * (width - columns(cell))
            padded.append(cell + space if place < text else space + cell)
        lines.append((" " * GAP).join(padded).rstrip())
    return lines


def _one_by_one(head: Sequence[str], rows: Sequence[Sequence[str]], available: int | None) -> list[str]:
    """Each row as lines of a heading and a cell; what has no heading stands above them. Prose is folded."""
    width = max(map(columns, head))
    lines: list[str] = []
    for row in rows:
        if lines:
            lines.append("")
        for heading, cell in zip(head, row, strict=True):
            if cell and heading:
                begin = f"{heading}{' ' * (width - columns(heading) + GAP)}"
                room = max(NARROW, (available or PAGE) - len(begin))
                parts = [cell] if available is None else _words(cell, room)
                lines += [begin + parts[0], *(" " * (width + GAP) + part for part in parts[1:])]
            elif cell:
                lines.append(cell)
    return lines


def _folded(head: Sequence[str], rows: Sequence[Sequence[str]], available: int | None) -> list[list[str]]:
    """The rows, with the last column on as many lines as it needs."""
    others = _whole(head[:-1], [row[:-1] for row in rows]) + GAP
    room = PAGE if available is None else max(available - others, NARROW)
    folded = []
    for row in rows:
        first, *more = _words(row[-1], room)
        folded += [[*row[:-1], first], *([*[""] * (len(head) - 1), line] for line in more)]
    return folded


def _words(text: str, room: int) -> list[str]:
    """Its words on lines that are no longer than that, where a word is not."""
    return wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
