"""What a caller's function may do to the tensors that it is given, and what it may keep of those that it returns."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError

# How many tensors and storage objects use a memory, by its address.
_uses: Callable[[int], int] = torch._C._storage_Use_Count


def _references(make: Callable[[], object]) -> int:
    value = make()
    return sys.getrefcount(value)


# References to a value that nobody else holds, as seen by the function that holds it.
FRESH = _references(object)


def changed(t: Tensor | None, y: Tensor) -> int:
    """How often the time, if there is one, and the state were changed in place; -1 where that is not known."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return -1  # within torch.func
    try:
        return y._version if t is None else t._version + y._version
    except RuntimeError:  # tensors of torch.inference_mode
        return -1


def shared(value: Tensor) -> bool:
    """Whether memory of a tensor, which the caller of this function holds once, may belong to somebody else as well.

    A view of a tensor that nobody else holds is not shared. The graph shares the memory of what it saves, but whoever
    changed that would be told so by PyTorch; so of tensors with a graph the holders in Python count alone.
    """
    base = value._base
    if base is not None and sys.getrefcount(base) > FRESH + 1:  # one more is held by the view
        return True
    if value.requires_grad:
        return False
    try:
        memory = value.untyped_storage()
    except (RuntimeError, NotImplementedError):  # within torch.func
        return True
    return _uses(memory._cdata) > (2 if base is None else 3) or not memory.resizable()


class Lender:
    """Hands a state to functions that may change it in place.

    The first of them gets a copy. Where it changes that, or where PyTorch does not count changes, so do all others.
    To count costs a tenth of a microsecond, a copy several.

    Args:
        what: the functions are, for an error.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._trusted: bool | None = None

    def __call__(self, function: Callable[[Tensor], Any], y: Tensor) -> Any:
        """What a function makes of a state; nobody else holds it, or what it changes later is not ours."""
        if torch.compiler.is_compiling():
            return function(y.clone())
        lent = y if self._trusted else y.clone()
        before = -1 if self._trusted is False else changed(None, lent)
        value = function(lent)
        still = before >= 0 and changed(None, lent) == before
        if self._trusted and not still:
            raise changed_in_place(self._what)
        self._trusted = still
        if isinstance(value, Tensor) and (sys.getrefcount(value) > FRESH or shared(value)):
            return value.clone()
        return value


def changed_in_place(what: str) -> ConfigurationError:
    """The error for a function that changes its arguments in some of its calls."""
    return ConfigurationError(
        f"{what} changed the time or the state that it was given in place, which it had not done before; let it work "
        "on a copy (y.clone()), or use operations that are not in place"
    )
