"""Which types of options a configuration file can hold."""

from collections.abc import Mapping, Sequence
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
    """Whether a file can hold every value of a type.

    >>> is_plain(tuple[float, ...]), is_plain(dict[str, int] | None), is_plain(type)
    (True, True, False)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return all(isinstance(part, VALUES) for part in parts)
    if origin in (Union, UnionType) and _objects(hint):
        return all(part is NoneType or (_is_object(part) and is_plain(part)) for part in parts)
    if origin in (dict, Mapping) and _objects(hint):
        return False
    if origin in (Union, UnionType, tuple, list, dict, Sequence, Mapping):
        return all(part is Ellipsis or is_plain(part) for part in parts)
    return hint in VALUES or (_is_object(hint) and all(map(is_plain, types_of(hint).values())))


def _objects(hint: Any) -> list[type]:
    """The classes of options among what a type may be."""
    return [hint] if _is_object(hint) else [found for part in get_args(hint) for found in _objects(part)]


def _is_object(hint: Any) -> bool:
    """Whether its values are written as mappings of options: those of a dataclass, or of a model."""
    return isinstance(hint, type) and (is_dataclass(hint) or hint is ModelConfig)
