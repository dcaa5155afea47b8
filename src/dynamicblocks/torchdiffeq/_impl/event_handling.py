"""Events: the first time at which a function changes its sign."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EventFunction = Callable[[Tensor, Any], Tensor]


def find_event(
    interp_fn: Callable[[Tensor], Any],
    sign0: Tensor,
    t0: Tensor,
    t1: Tensor,
    event_fn: EventFunction,
    tol: float | Tensor,
) -> tuple[Tensor, Any]:
    """The time of an event between two, by bisection to the accuracy ``tol``, and the state there.

    Args:
        interp_fn: gives the state at a time.
        sign0: the sign of ``event_fn`` at ``t0``.
    """
    with torch.no_grad():
        halvings = math.ceil(math.log2(float((t1 - t0) / tol)))
        for _ in range(halvings):
            middle = (t0 + t1) / 2
            before = torch.sign(event_fn(middle, interp_fn(middle))) == sign0
            t0, t1 = torch.where(before, middle, t0), torch.where(before, t1, middle)
        event_t = (t0 + t1) / 2
    return event_t, interp_fn(event_t)


def combine_event_functions(event_fn: EventFunction, t0: Tensor, y0: Any) -> EventFunction:
    """One number that is positive before the first of several events and zero at it."""
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))
    return lambda t, y: torch.min(event_fn(t, y) * signs)
