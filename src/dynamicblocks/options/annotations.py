"""From annotations to kinds of values."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dynamicblocks.options.kind import EXPECTED, Kind

NONE = inspect.Parameter.empty
"""In the place of an annotation or a default where there is none."""


def kind_of(annotation: Any, default: Any = NONE) -> Kind:
    """The kind of values that an annotation stands for; where there is none, that of the default.

    Objects, such as functions and integrators, have a shorthand, so they are texts.

    >>> from collections.abc import Callable
    >>> kind_of(float | None).written, kind_of(Sequence[int]).written, kind_of(Callable[[int], str]).written
    ('float | null', '[int, ...]', 'str')
    """
    if annotation is Any or annotation is object or isinstance(annotation, str) or annotation is NONE:
        return _kind_of_default(default)
    if annotation in EXPECTED:
        return Kind(scalars=(annotation,))
    if annotation is None or annotation is NoneType:
        return Kind(none=True)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _union([kind_of(each, default) for each in arguments])
    if origin is Literal:
        return replace(Kind(choices=tuple(each for each in arguments if each is not None)), none=None in arguments)
    base = origin if origin is not None else annotation
    if isinstance(base, type) and issubclass(base, Sequence):
        return _sequence(base, arguments)
    if isinstance(base, type) and issubclass(base, Mapping):
        return Kind(free=True)
    if hasattr(annotation, "__metadata__"):
        return kind_of(arguments[0], default)
    return Kind(scalars=(str,))


def is_of_plain_values(annotation: Any) -> bool:
    """Whether plain values are all that an annotation stands for: then a literal of another kind is wrong.

    >>> from collections.abc import Callable, Iterable
    >>> [is_of_plain_values(each) for each in (int | None, tuple[float, ...], Callable[[int], str], Iterable[int])]
    [True, True, False, False]
    """
    if annotation in EXPECTED or annotation is None or annotation is NoneType or annotation is ...:
        return True
    origin = get_origin(annotation)
    if origin is Literal:
        return True
    several = origin in (Union, UnionType) or (isinstance(origin, type) and issubclass(origin, Sequence))
    return several and all(map(is_of_plain_values, get_args(annotation)))


def _sequence(base: type, arguments: tuple[Any, ...]) -> Kind:
    container = list if base is list else tuple
    if base is not tuple or arguments[1:] == (...,):
        return Kind(entries=(kind_of(arguments[0]) if arguments else Kind(free=True),), container=container)
    if not arguments:
        return Kind(entries=(Kind(free=True),))
    return Kind(entries=tuple(kind_of(each) for each in arguments), length=len(arguments))


def _union(kinds: Sequence[Kind]) -> Kind:
    sequences = [kind for kind in kinds if kind.entries]
    return replace(
        sequences[0] if sequences else Kind(),
        scalars=tuple(dict.fromkeys(scalar for kind in kinds for scalar in kind.scalars)),
        choices=tuple(dict.fromkeys(choice for kind in kinds for choice in kind.choices)),
        none=any(kind.none for kind in kinds),
        free=any(kind.free for kind in kinds),
    )


def _kind_of_default(default: Any) -> Kind:
    if type(default) in EXPECTED:
        return Kind(scalars=(type(default),))
    if isinstance(default, list | tuple) and default:
        return Kind(entries=(_union([_kind_of_default(each) for each in default]),), container=type(default))
    return Kind(free=True, none=True)
