"""Tables of the listings, which need nothing installed."""

from collections.abc import Sequence


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, under a title.

    >>> print(table("Integrators", ("name", "order"), [("euler", "1"), ("rk4", "4")]))
    Integrators
    <BLANKLINE>
    name   order
    -----  -----
    euler  1
    rk4    4
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    shown = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join([title, "", *shown])
