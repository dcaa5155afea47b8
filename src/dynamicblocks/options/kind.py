"""Which values an option takes, and how they are written."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynamicblocks.options.literals import literal

EXPECTED: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
SEVERAL: Mapping[type, str] = {bool: "truth values", int: "whole numbers", float: "numbers", str: "texts"}
EXAMPLES: Mapping[type, str] = {bool: "[true, false]", int: "[8, 16]", float: "[0.5, 1]", str: "[one, two]"}
TRUTH: Mapping[str, bool] = {"true": True, "yes": True, "false": False, "no": False}
NOTHING = ("null", "None")


@dataclass(frozen=True)
class Kind:
    """Which values an option takes: plain ones, as YAML and JSON hold them. Objects are written as strings.

    Args:
        scalars: any of bool, int, float and str.
        choices: values that stand by themselves.
        none: whether nothing is a value.
        entries: of a sequence, the kind of each entry, or the one kind of all.
        length: how many entries a sequence has; None for any number.
        container: what a sequence becomes.
        free: whether any plain value will do.
    """

    scalars: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()
    none: bool = False
    entries: "tuple[Kind, ...]" = ()
    length: int | None = None
    container: type[list[Any]] | type[tuple[Any, ...]] = tuple
    free: bool = False

    @property
    def several(self) -> bool:
        """Whether it may be a sequence."""
        return bool(self.entries)

    @property
    def expected(self) -> str:
        """What is expected, in words.

        >>> Kind(scalars=(int,), none=True).expected
        'a whole number or null'
        """
        found = [f"one of {', '.join(map(str, self.choices))}"] if len(self.choices) > 1 else list(self.choices)
        found += [EXPECTED[scalar] for scalar in EXPECTED if scalar in self.scalars]
        if self.entries:
            found.append(self._expected_entries())
        if self.free:
            found.append("a plain value")
        return " or ".join([*map(str, found), *(["null"] if self.none else [])])

    def _expected_entries(self) -> str:
        first = self.entries[0]
        if self.length is not None:
            return f"a list of {self.length}: {'; '.join(each.expected for each in self._all(self.length))}"
        if len(first.scalars) == 1 and not first.choices and not first.none:
            return f"{SEVERAL[first.scalars[0]]} such as {EXAMPLES[first.scalars[0]]}"
        return f"a list, each {first.expected}"

    @property
    def written(self) -> str:
        """What is expected, as types are written.

        >>> Kind(scalars=(int,), none=True).written
        'int | null'
        """
        found = [*map(str, self.choices), *(scalar.__name__ for scalar in EXPECTED if scalar in self.scalars)]
        if self.entries:
            entries = ", ".join(f"({each.written})" if "|" in each.written else each.written for each in self.entries)
            found.append(f"[{entries}{'' if self.length is not None else ', ...'}]")
        found += ["any"] if self.free else []
        return " | ".join([*found, *(["null"] if self.none else [])])

    def take(self, value: Any, *, texts: bool = False) -> Any:
        """The value as it is meant, or a ValueError; with ``texts``, a string may be what somebody wrote for it."""
        if value is None and self.none:
            return None
        for choice in self.choices:
            if type(value) is type(choice) and value == choice:
                return value
        if isinstance(value, str):
            if texts:
                return self._read(value)
            if str in self.scalars or self.free:
                return value
        elif isinstance(value, bool):
            if bool in self.scalars or self.free:
                return value
        elif isinstance(value, int) and (int in self.scalars or self.free):
            return value
        elif isinstance(value, int | float) and (float in self.scalars or self.free):
            return float(value) if float in self.scalars else value
        elif isinstance(value, list | tuple):
            return self._take_all(value, texts)
        elif self.free and (value is None or isinstance(value, Mapping)):
            return value
        raise ValueError

    def _take_all(self, values: Sequence[Any], texts: bool) -> Any:
        if self.entries:
            if self.length is not None and len(values) != self.length:
                raise ValueError
            kinds = self._all(len(values))
            return self.container([kind.take(each, texts=texts) for kind, each in zip(kinds, values, strict=True)])
        if self.free:
            return tuple(self.take(each, texts=texts) for each in values)
        raise ValueError

    def _all(self, count: int) -> "list[Kind]":
        return list(self.entries) if len(self.entries) == count else [self.entries[0]] * count

    def _read(self, text: str) -> Any:
        """A value written as text, as on a command line."""
        if self.none and text in NOTHING:
            return None
        for choice in self.choices:
            if text == str(choice) or text.lower() == str(choice).lower():
                return choice
        if bool in self.scalars and text.lower() in TRUTH:
            return TRUTH[text.lower()]
        for scalar in (int, float):
            if scalar in self.scalars:
                try:
                    return scalar(text)
                except ValueError:
                    pass
        if str in self.scalars:
            return text
        if self.entries:
            return self._take_all(split(text), texts=True)
        if self.free:
            try:
                return Kind(free=True).take(literal(text))
            except ValueError:
                return text
        raise ValueError


def split(text: str) -> list[str]:
    """The entries of a list, written with or without its brackets.

    >>> split("[8, 16]"), split("[0,20],[0.3,24]"), split("")
    (['8', '16'], ['[0,20]', '[0.3,24]'], [])
    """
    entries = list(_between_commas(text.strip()))
    if len(entries) == 1 and entries[0][:1] in ("[", "(") and entries[0][-1:] in ("]", ")"):
        entries = list(_between_commas(entries[0][1:-1]))
    return [entry[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", entry) else entry for entry in entries]


def _between_commas(text: str) -> Iterator[str]:
    """What stands between the commas outside all brackets, but for nothing."""
    depth, begin = 0, 0
    for place, sign in enumerate(f"{text},"):
        depth += (sign in "[(") - (sign in "])")
        if sign == "," and (depth <= 0 or place == len(text)):
            if text[begin:place].strip():
                yield text[begin:place].strip()
            begin = place + 1
