"""Carries of any integrator, taken apart into tensors and what holds them."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from dynamicblocks.integrators import Carry


class _Hole:
    """Where a tensor was."""


_HOLE = _Hole()


def apart(carry: Carry) -> tuple[list[Tensor], Carry]:
    """The tensors of a carry, and the carry without them."""
    tensors: list[Tensor] = []

    def taken(tensor: Tensor) -> _Hole:
        tensors.append(tensor)
        return _HOLE

    hollow = _mapped(carry, Tensor, taken)
    return tensors, hollow


def together(hollow: Carry, tensors: Iterator[Tensor]) -> Carry:
    """The carry with tensors again."""
    return _mapped(hollow, _Hole, lambda _: next(tensors))


def _mapped(carry: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The carry with all that is of a kind replaced."""
    if isinstance(carry, kind):
        return function(carry)
    if dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        values = {each.name: _mapped(getattr(carry, each.name), kind, function) for each in dataclasses.fields(carry)}
        return replace(carry, **values)
    if isinstance(carry, dict):
        return {key: _mapped(value, kind, function) for key, value in carry.items()}
    if isinstance(carry, (tuple, list)):
        return type(carry)(_mapped(value, kind, function) for value in carry)
    return carry
