"""Callbacks that functions carry, and which of them a method calls."""

import warnings
from typing import Any

from dynamicblocks.integrators import AdaptiveMethod, GridMethod
from dynamicblocks.integrators.methods import Method

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


def null_callback(*arguments: Any, **keywords: Any) -> None:
    """Nothing happens. It stands where a function has no callback, for those who call it all the same."""


def warn_of_uncalled(func: object, method: Method, what: str = "", ending: str = "") -> None:
    """Warn of callbacks that a function carries in vain, since the method calls fewer, or none.

    Args:
        func: as the caller gave it.
        method: that solves.
        what: solves with it and calls none of them, in words.
        ending: of their names.
    """
    adaptive, grid = isinstance(method, AdaptiveMethod), isinstance(method, GridMethod)
    called = () if what else CALLBACKS if adaptive else CALLBACKS[:1] if grid else ()
    # Modules look for what they have not in a slow way.
    own, kind = getattr(func, "__dict__", {}), type(func)
    missed = []
    for name in CALLBACKS:
        there = name not in called and (name + ending in own or hasattr(kind, name + ending))
        if there and own.get(name + ending) is not null_callback:
            missed.append(name + ending)
    if missed:
        calls = ", ".join(name + ending for name in called) or "no callbacks"
        warnings.warn(
            f"{what or method.name} does not call {', '.join(missed)} of func; it calls {calls}", stacklevel=4
        )
