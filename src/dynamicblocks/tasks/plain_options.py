"""What a configuration file may hold: values, and no name of anything that would be imported.

Where an option is an object, the library that reads options takes the name of a class too, and imports its module
before it refuses the class. A file may have come with somebody else's run, so it is looked through first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dynamicblocks.errors import ConfigurationError

VALUES = (bool, int, float, str, NoneType)


def options_of(kind: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, by name; of other classes nothing is known."""
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}


def check_written(written: Mapping[str, Any], hints: Mapping[str, Any], where: str = "") -> None:
    """Raise where something stands that would be imported.

    Args:
        written: options as they were read.
        hints: their types, as far as they are known.
        where: they are among all options, for the message.

    Raises:
        ConfigurationError: it says at which option.
    """
    if "class_path" in written:
        raise ConfigurationError(f"{where or 'it'} names a class by class_path, but nothing is imported for a file")
    for key, value in written.items():
        place, kinds = f"{where}.{key}" if where else str(key), _objects(hints.get(key))
        for entry in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(entry, Mapping):
                inner = {name: hint for kind in kinds for name, hint in options_of(kind).items()}
                check_written(entry, inner, place)
            elif isinstance(entry, str) and kinds:
                raise ConfigurationError(f"{place} must hold options by name, got the text {entry!r}")


def is_plain(hint: Any) -> bool:
    """Whether a file can hold every value of a type, and a text in it is never the name of a class.

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
    return hint in VALUES or (_is_object(hint) and all(map(is_plain, options_of(hint).values())))


def _objects(hint: Any) -> list[type]:
    """The classes of options among what a type may be."""
    return [hint] if _is_object(hint) else [found for part in get_args(hint) for found in _objects(part)]


def _is_object(hint: Any) -> bool:
    """Whether its values are written as mappings of options: a dataclass, or a class that writes itself so."""
    return isinstance(hint, type) and (is_dataclass(hint) or hasattr(hint, "as_dict"))
