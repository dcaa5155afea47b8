"""The modules and tensors that a caller's function holds where they can be seen."""

import functools
import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType

from torch import Tensor, nn


def held_by(func: object) -> Iterator[nn.Module | Tensor]:
    """Modules and tensors of a module, a method of an object, a partial function, or a callable object.

    What a function merely closes over is not seen.

    >>> net = nn.Linear(2, 2)
    >>> [each is net for each in held_by(functools.partial(net.forward))]
    [True]
    """
    if isinstance(func, functools.partial):
        for each in (func.func, *func.args, *func.keywords.values()):
            yield from held_by(each)
    elif inspect.ismethod(func):
        yield from held_by(func.__self__)
    elif isinstance(func, nn.Module | Tensor):
        yield func
    else:
        # The attributes of an object; what these hold in turn is not searched without end.
        for each in getattr(func, "__dict__", {}).values():
            yield from (part for part in _parts(each) if isinstance(part, nn.Module | Tensor))


def modules_of(func: object) -> tuple[nn.Module, ...]:
    """The modules among what a function holds."""
    plain = isinstance(func, FunctionType) and not func.__dict__
    return () if plain else tuple(each for each in held_by(func) if isinstance(each, nn.Module))


def _parts(value: object) -> Iterable[object]:
    return value if isinstance(value, (tuple, list)) else value.values() if isinstance(value, dict) else (value,)
