"""What docstrings say of arguments."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any


def helps_of(described: Callable[..., Any]) -> dict[str, str]:
    """What the section Args of a docstring says of each name.

    >>> def area(a, b):
    ...     '''Of a rectangle.
    ...
    ...     Args:
    ...         a, b: its sides, see :class:`~dynamicblocks.Grid`.
    ...     '''
    >>> helps_of(area)
    {'a': 'its sides, see Grid.', 'b': 'its sides, see Grid.'}
    """
    _, _, section = _docstring(described).partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line.strip() and not line.startswith(" "):
            break
        entry = re.match(r" {4}([\w*]+(?:, [\w*]+)*)(?: \([^)]*\))?: *(.*)", line)
        if entry:
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, plain_text(entry[2])))
        elif line.strip():
            found.update({name: f"{found[name]} {plain_text(line.strip())}".strip() for name in names})
        else:
            names = []
    return found


def summary_of(described: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(plain_text(_docstring(described).partition("\n\n")[0]).split())


def _docstring(described: Callable[..., Any]) -> str:
    while isinstance(described, partial):
        described = described.func
    # Not what a class inherits, which speaks of another one, nor what dataclass writes where nobody did.
    own = vars(described).get("__doc__") if isinstance(described, type) else described.__doc__
    generated = isinstance(described, type) and (own or "").startswith(f"{described.__name__}(")
    return "" if generated else inspect.cleandoc(own or "")


def plain_text(text: str) -> str:
    """A docstring's text without its marks.

    >>> plain_text("``torch`` or see :class:`~dynamicblocks.DynamicBlock`")
    'torch or see DynamicBlock'
    """
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return re.sub(r"``([^`]*)``", lambda found: f"`{found[1]}`" if " " in found[1] else found[1], text)
