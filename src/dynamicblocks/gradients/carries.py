"""Carries of any integrator, split into their tensors and the form that holds them."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from dynamicblocks.integrators import Carry


class _Slot:
    """Where a tensor was."""


_SLOT = _Slot()


def split_carry(carry: Carry) -> tuple[list[Tensor], Carry]:
    """The tensors of a carry, and its form without them."""
    tensors: list[Tensor] = []

    def taken(tensor: Tensor) -> _Slot:
        tensors.append(tensor)
        return _SLOT

    form = _mapped(carry, Tensor, taken)
    return tensors, form


def join_carry(form: Carry, tensors: Iterator[Tensor]) -> Carry:
    """The carry of a form with tensors again."""
    return _mapped(form, _Slot, lambda _: next(tensors))


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
        parts = [_mapped(value, kind, function) for value in carry]
        return type(carry)(*parts) if hasattr(carry, "_fields") else type(carry)(parts)
    return carry


def as_leaf(tensor: Tensor) -> Tensor:
    """The same numbers, to be differentiated for."""
    leaf = tensor.detach()
    return leaf.requires_grad_() if leaf.is_floating_point() or leaf.is_complex() else leaf
