"""YAML as configurations hold it: plain values, from files and texts whose size, depth and aliases are bounded.

YAML as such has no bounds. Ten lines of aliases stand for more entries than any memory holds, nesting ends the C stack
of the interpreter, and a pipe is waited for. So everything is counted while it is read, before it is built.
"""

import os
import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dynamicblocks.errors import ConfigurationError, StorageError

MOST_BYTES = 128 * 1024
"""Of a file or text. The scanner is Python: at worst it takes a second for twice as many."""
MOST_DEEP = 32
MOST_ENTRIES = 5_000
"""Values, those that aliases stand for counted each time."""
MOST_DIGITS = 100
"""Characters of a whole number: YAML's in base 60 take quadratic time, and Python writes no more than 4300 digits."""


class _Refused(yaml.YAMLError):
    """What YAML allows and configurations do not."""


class _PlainLoader(yaml.SafeLoader):
    """Plain values alone; dates are texts, as they are behind flags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.entries = 0
        # Of what has an anchor: how many values it holds, and how deep it is.
        self.extents: dict[yaml.Node, tuple[int, int]] = {}
        self.deepest = 0

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """An opening bracket: the scanner looks a thousand of them ahead, and at all of them again for each."""
        self._check_depth(self.flow_level + 1)
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next value with all that is in it, counted before it is built."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self.extents:
                raise _Refused(f"the alias *{event.anchor} stands within what it names")
            entries, height = self.extents[node]
            self._count(entries, self.depth + height)
            return node
        before, outside = self.entries, self.deepest
        self.depth += 1
        self.deepest = self.depth
        self._count(1, self.depth)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and getattr(event, "anchor", None):
            self.extents[node] = (self.entries - before, self.deepest - self.depth)
        self.deepest = max(self.deepest, outside)
        return node

    def _count(self, entries: int, depth: int) -> None:
        self.entries += entries
        self.deepest = max(self.deepest, depth)
        self._check_depth(depth)
        if self.entries > MOST_ENTRIES:
            raise _Refused(f"it holds more than {MOST_ENTRIES:,} values, those of aliases counted each time")

    @staticmethod
    def _check_depth(depth: int) -> None:
        if depth > MOST_DEEP:
            raise _Refused(f"it is nested more than {MOST_DEEP} levels deep")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping, in which no key stands twice."""
        if isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, Any]] = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else ("", None)
                if name in seen and not name[0].endswith(":merge"):
                    raise _Refused(f"the key {key.value!r:.80} stands twice in one mapping, again at {_place(key)}")
                seen.add(name)
        return super().construct_mapping(node, deep)

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """An int of no more digits than can be written."""
        if len(node.value) > MOST_DIGITS:
            raise _Refused(f"a number of {len(node.value):,} characters, more than {MOST_DIGITS}, at {_place(node)}")
        return self.construct_yaml_int(node)

    def text(self, node: yaml.ScalarNode) -> str:
        """A text that can be written to a file and be part of a path."""
        if not is_text(node.value):
            raise _Refused(f"a text holds a NUL or half of a character, at {_place(node)}")
        return str(node.value)

    def no_plain_value(self, node: yaml.Node) -> Any:
        """Raise for sets, binary data and objects."""
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise _Refused(f"{tag:.80} is no plain value (text, number, truth value, list, mapping), at {_place(node)}")


_PLAIN = ("null", "bool", "float", "seq", "map")
_PlainLoader.yaml_constructors = {
    **{f"tag:yaml.org,2002:{name}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{name}"] for name in _PLAIN},
    "tag:yaml.org,2002:int": _PlainLoader.whole_number,
    "tag:yaml.org,2002:str": _PlainLoader.text,
    None: _PlainLoader.no_plain_value,
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """The value that a YAML file holds; None for one that holds nothing.

    Raises:
        StorageError: it cannot be read, is no regular file, too large, or no YAML of plain values.
    """
    try:
        return yaml_value(_text_of(path))
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise StorageError(f"{path} is no text in UTF-8: {byte}") from error
    except ConfigurationError as error:
        raise StorageError(f"{path} is no configuration of this version: {error}") from error
    except (OSError, ValueError) as error:  # of a path that cannot be one
        raise StorageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def yaml_value(text: str) -> Any:
    """The value that a text in YAML holds.

    >>> yaml_value("{name: resnet20, widths: [8, 16]}")
    {'name': 'resnet20', 'widths': [8, 16]}

    Raises:
        ConfigurationError: it is no YAML, holds what is no plain value, or too much.
    """
    if len(text) > MOST_BYTES:
        raise ConfigurationError(f"it has {len(text):,} characters, and at most {MOST_BYTES:,} are read")
    loader = None
    try:
        loader = _PlainLoader(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigurationError(_one_line(error)) from error
    except (ValueError, LookupError) as error:  # of !!bool maybe, !!int x
        raise ConfigurationError(f"a value is not what its tag says: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def is_text(text: str) -> bool:
    """Whether a text can be written to a file and be part of a path: without NUL and halves of characters.

    >>> is_text("a b"), is_text(chr(0)), is_text(chr(0xDCFF))
    (True, False, False)
    """
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _text_of(path: Path) -> str:
    # A pipe would be waited for, a device or a folder has no end or no text: looked at before it is opened.
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise StorageError(f"{path} is {_kind_of_file(mode)}, and no file")
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(file, "rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise StorageError(f"{path} is larger than a configuration can be, {MOST_BYTES:,} bytes")
    return data.decode("utf-8")


def _kind_of_file(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _one_line(error: Exception) -> str:
    """What YAML says, without the text around it."""
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    return re.sub(r"\s+", " ", f"{problem:.300}{place}")


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
