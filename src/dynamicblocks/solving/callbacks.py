"""Callbacks that functions carry, and which of them a method calls."""

import warnings

from dynamicblocks.integrators import AdaptiveMethod, GridMethod
from dynamicblocks.integrators.methods import Method

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


def called_by(method: Method) -> tuple[str, ...]:
    """The callbacks that a method calls."""
    return CALLBACKS if isinstance(method, AdaptiveMethod) else CALLBACKS[:1] if isinstance(method, GridMethod) else ()


def warn_of_uncalled(func: object, what: str, called: tuple[str, ...], ending: str = "") -> None:
    """Warn of callbacks that a function carries in vain.

    Args:
        func: as the caller gave it.
        what: that solves, in words.
        called: callbacks that it calls.
        ending: of their names.
    """
    missed = [name + ending for name in CALLBACKS if name not in called and hasattr(func, name + ending)]
    if missed:
        warnings.warn(
            f"{what} does not call {', '.join(missed)} of func; it calls "
            f"{', '.join(name + ending for name in called) or 'no callbacks'}",
            stacklevel=4,
        )
