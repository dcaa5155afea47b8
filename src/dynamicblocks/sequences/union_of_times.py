"""States of a batch at times that differ from series to series."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from dynamicblocks.functional.solver import Solver

Times = Literal["union", "own"]

Field = Callable[[Tensor, Any], Any]


def states_at(solver: Solver, field: Field, begin: Any, elapsed: Tensor, times: Times = "union") -> Any:
    """The states, (n, length, ...), of each series at times of its own.

    Args:
        solver: how the equation is solved.
        field: ``field(t, y)``, where t is zero at the begin.
        begin: the states there, a tensor or a tuple of tensors, the series first.
        elapsed: (n, length), the times since the begin, in any order and also before it, then solved backwards.
        times: ``union``: one solve, whose steps all series share, to all times of the batch, of which each series picks
            its own. ``own``: each series takes steps of its own to times of its own.
    """
    one_way = _on_own_times if times == "own" else _on_union
    before = elapsed < 0
    backwards = bool(before.any())
    if backwards:
        earlier = one_way(solver, field, begin, elapsed.clamp_max(0).neg(), -1.0)
    if bool((elapsed > 0).any()):
        found = one_way(solver, field, begin, elapsed.clamp_min(0), 1.0)
    else:
        found = _mapped(lambda y: y[:, None].expand(-1, elapsed.shape[1], *y.shape[1:]), begin)
    return _mapped(lambda a, b: torch.where(_wide(before, a), b, a), found, earlier) if backwards else found


def _on_union(solver: Solver, field: Field, begin: Any, spans: Tensor, sign: float) -> Any:
    """One solve to the union of all times, ``sign * spans``, some of which are not zero."""
    union, place = torch.unique(torch.cat([spans.new_zeros(1), spans.reshape(-1)]), return_inverse=True)
    place = place[1:].reshape(spans.shape)
    states = solver(field, begin, sign * union).y
    if bool((place == place[:1]).all()):
        return _mapped(lambda y: y[place[0]].transpose(0, 1), states)
    return _mapped(lambda y: _picked(y, place), states)


def _on_own_times(solver: Solver, field: Field, begin: Any, spans: Tensor, sign: float) -> Any:
    """A solve with steps and times of its own, ``sign * spans``, for each series; some are not zero."""
    ordered, order = spans.double().sort(dim=1, stable=True)
    # Times must increase: those that repeat, padding among them, are moved by less than any tolerance.
    apart = torch.arange(spans.shape[1] + 1, dtype=torch.float64, device=spans.device) * (1e-12 * float(spans.max()))
    asked = torch.cat([torch.zeros_like(ordered[:, :1]), ordered], 1) + apart
    states = solver(field, begin, sign * asked, batched=True).y
    back = order.argsort(dim=1)
    return _mapped(lambda y: _picked(y[1:], back), states)


def _picked(states: Tensor, place: Tensor) -> Tensor:
    """Of ``states``, (times, n, ...), those at ``place``, (n, length): (n, length, ...)."""
    # A gather, for the gradient of indexing with tensors is slow.
    return states.gather(0, _wide(place.t(), states).expand(-1, -1, *states.shape[2:])).transpose(0, 1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    """``index`` with dimensions of length one to the right, as many as ``like`` has."""
    return index.reshape(*index.shape, *[1] * (like.ndim - index.ndim))


def _mapped(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """``function`` of a tensor, or of each of a tuple."""
    if isinstance(first, Tensor):
        return function(first, *others)
    return tuple(function(*each) for each in zip(first, *others, strict=True))
