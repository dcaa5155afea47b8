"""Which types of options a configuration file can hold."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dynamicblocks.tasks.model import ModelConfig

VALUES = (bool, int, float, str, NoneType)


def types_of(kind: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, by name; of other classes nothing is known."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}


def is_plain(hint: Any) -> bool:
    """Whether a file can hold every value of a type: plain values, sequences of them, or a dataclass of such options.

    >>> is_plain(tuple[float, ...]), is_plain(int | None), is_plain(type)
    (True, True, False)
    """
    if hint in VALUES:
        return True
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part not in (Ellipsis, NoneType)]
    if origin is Literal:
        return all(isinstance(part, VALUES) for part in parts)
    if origin in (Union, UnionType) and len(parts) == 1:
        return is_plain(parts[0])
    if origin in (Union, UnionType, tuple, list, Sequence):
        return not any(map(_is_object, parts)) and all(map(is_plain, parts))
    return _is_object(hint) and all(map(is_plain, types_of(hint).values()))


def _is_object(hint: Any) -> bool:
    """Whether its values are written as mappings of options: those of a dataclass, or of a model."""
    return isinstance(hint, type) and (is_dataclass(hint) or hint is ModelConfig)
