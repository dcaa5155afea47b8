"""Options: kinds of values from annotations, values from texts, helps from docstrings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import yaml

from dynamicblocks import ConfigurationError
from dynamicblocks.options import NONE, Kind, Option, fields_of, helps_of, kind_of, options_of, summary_of

if TYPE_CHECKING:
    from nowhere import Unknown


class Thing:
    """An object of some kind."""


@pytest.mark.parametrize(
    ("annotation", "written", "takes", "refuses"),
    [
        (bool, "bool", [True, False], [1, "true", None]),
        (int, "int", [3, -1], [3.0, True, "3", None, [3]]),
        (float, "float", [0.5, 2, -1.0], [True, "0.5", None]),
        (str, "str", ["", "null"], [3, None, ["a"], Thing()]),
        (int | None, "int | null", [None, 1], ["null", 1.5]),
        (bool | Literal["auto"], "auto | bool", ["auto", False], ["yes", 1]),
        (Literal[1, 2], "1 | 2", [1, 2], [3, True, 1.0, "1"]),
        (Literal["a", None], "a | null", ["a", None], ["b"]),
        (Sequence[int], "[int, ...]", [(1, 2), []], [1, "1", (1, "b"), None]),
        (list[str], "[str, ...]", [["a"]], ["a", [1]]),
        (tuple[float, float], "[float, float]", [(0.5, 1)], [(0.5,), (1, 2, 3)]),
        (tuple[tuple[float, int], ...], "[[float, int], ...]", [((0, 20), (0.3, 24))], [(0, 20), ((0, 0.5),)]),
        (tuple[Literal["x", "y"], ...] | None, "[(x | y), ...] | null", [("x", "y"), None], [("z",)]),
        (Thing | str | int, "int | str", ["thing(3)", 4], [Thing(), 1.5]),
        (Callable[[int], Thing], "str", ["thing"], [Thing]),
        (Mapping[str, int], "any", [{"a": 1}], [Thing()]),
        (Annotated[int, "whole"], "int", [1], ["a"]),
        (Any, "any | null", [1, "a", (1, (2.5,)), None], [Thing(), [Thing()]]),
    ],
)
def test_kinds_of_annotations(annotation, written, takes, refuses):
    kind = kind_of(annotation)
    assert kind.written == written
    option = Option("one", kind)
    for value in takes:
        assert option.take(value, "one") == (kind.container(value) if isinstance(value, list) else value)
    for value in refuses:
        with pytest.raises(ConfigurationError, match=r"^one expects [^\n]*, got [^\n]*$"):
            option.take(value, "one")


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (bool, "true", True),
        (bool, "No", False),
        (int, "-3", -3),
        (float, "1e-3", 1e-3),
        (float | None, "null", None),
        (float | None, "None", None),
        (str, "null", "null"),
        (str | None, "none", "none"),
        (int | str, "8", 8),
        (int | str, "linear(8)", "linear(8)"),
        (bool | Literal["auto"], "Auto", "auto"),
        (Literal[1, 2], "2", 2),
        (tuple[int, ...], "8,16", (8, 16)),
        (tuple[int, ...], "[8, 16]", (8, 16)),
        (tuple[int, ...], "(8,)", (8,)),
        (tuple[int, ...], "8", (8,)),
        (tuple[int, ...], "[]", ()),
        (list[str], "[a, 'b']", ["a", "b"]),
        (list[str], "reversible('rk4', coupling=0.9), euler", ["reversible('rk4', coupling=0.9)", "euler"]),
        (tuple[tuple[float, int], ...], "[[0,20],[0.3,24]]", ((0.0, 20), (0.3, 24))),
        (tuple[tuple[float, int], ...], "[0,20], [0.3,24]", ((0.0, 20), (0.3, 24))),
        (Any, "{'a': [1]}", {"a": [1]}),
        (Any, "word", "word"),
    ],
)
def test_values_from_texts(annotation, text, value):
    found = Option("one", kind_of(annotation)).take(text, "--one", texts=True)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("annotation", "text"), [(int, "3.0"), (bool, "1"), (float, "x"), (tuple[int, ...], "1,b")])
def test_texts_of_another_kind(annotation, text):
    with pytest.raises(ConfigurationError, match=f"^--one expects .*, got '{text}'$"):
        Option("one", kind_of(annotation)).take(text, "--one", texts=True)


@pytest.mark.parametrize("value", [3, 0.5, True, None, "zeros", (8, 16), ((0.0, 20), (0.5, 32))])
def test_defaults_are_shown_as_files_hold_them(value):
    def plain(entry):
        return [plain(each) for each in entry] if isinstance(entry, tuple) else entry

    assert yaml.safe_load(Option("one", Kind(), value).shown_default) == plain(value)


def network(in_channels, width: int = 8, *, unit=("a", "b"), far: "Unknown" = None, **others):
    """A network.

    It is not described
    at length.

    Args:
        in_channels: channels of the images.
        width, unit: see :class:`~dynamicblocks.DynamicBlock`,
            or ``elsewhere`` (``dynamicblocks models``).

    >>> network(3)
    """


def test_options_of_a_function():
    for function in (network, partial(network)):
        options = options_of(function)
        assert list(options) == ["in_channels", "width", "unit", "far"]
        assert options["in_channels"].default is NONE
        assert options["width"].kind.written == "int"
        assert options["unit"].kind.written == "[str, ...]"
        assert options["unit"].help == "see DynamicBlock, or elsewhere (`dynamicblocks models`)."
        assert options["far"].help == ""
        assert summary_of(function) == "A network."
    assert options_of(partial(network, width=5))["width"].default == 5


def test_options_of_dataclasses():
    @dataclass
    class Described:
        """What it is.

        Args:
            one: the first.
        """

        one: int
        two: tuple[str, ...] = ()
        three: list[int] = field(default_factory=lambda: [3])
        inner: int = field(default=0, init=False)

    @dataclass
    class Bare:
        one: int = 1

    options = fields_of(Described)
    assert list(options) == ["one", "two", "three"]
    assert [option.default for option in options.values()] == [NONE, (), [3]]
    assert options["one"].help == "the first."
    assert summary_of(Bare) == ""
    assert helps_of(Bare) == {}
