"""Solves that end when a function of time and state changes its sign."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.problem import Problem

MAX_GRID_STEPS = 20_000
"""Steps in which a method on a grid looks for an event beyond the last time."""


def combined(event_fn: Callable[[Tensor, Any], Tensor], problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The events as one function of time and the one tensor: positive at the begin, zero when the first happens."""
    nesting = problem.nesting
    with torch.no_grad():
        signs = torch.sign(event_fn(problem.t[0].clone(), nesting.nested(problem.y0.clone())))

    def event(t: Tensor, y: Tensor) -> Tensor:
        # Copies: the state of a step must stay what it is.
        return torch.min(event_fn(t.clone(), nesting.nested(y.clone())) * signs)

    return event


def check_event_times(problem: Problem) -> None:
    """A solve up to an event has a begin and a direction."""
    if len(problem.times) != 2:
        raise ConfigurationError(
            f"We require len(t) == 2 when in event handling mode (a begin and a direction), but got "
            f"len(t)={len(problem.times)}."
        )


def event_found(found: Outputs) -> tuple[float, Tensor]:
    """The time and state of an event that was looked for beyond the last time."""
    if found.event_time is None or found.event_state is None:
        raise SolverError(
            f"no event in {MAX_GRID_STEPS} steps: reached maximum number of iterations {MAX_GRID_STEPS}. Does event_fn "
            "change its sign?"
        )
    return found.event_time, found.event_state


def least(atol: float | Tensor) -> float:
    """The accuracy of an event's time: the absolute tolerance, or where it is zero the precision of double."""
    value = float(atol.min()) if isinstance(atol, Tensor) else atol
    return max(value, 1e-15)


def rerouted(
    problem: Problem, event: Callable[[Tensor, Tensor], Tensor], event_t: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """The time and state of an event with the gradients of the implicit function theorem; the values stay."""
    time = event_t.detach()
    at = time.to(problem.clock.dtype)
    with torch.enable_grad():
        t_leaf, y_leaf = at.clone().requires_grad_(), y.detach().clone().requires_grad_()
        value = event(t_leaf, y_leaf)
        if not value.requires_grad:  # an event that happens whatever time and state are
            return time, y
        by_t, by_y = torch.autograd.grad(value, (t_leaf, y_leaf), allow_unused=True)
        slope = problem.field(at, y.detach()).detach()
    rate = (0 if by_t is None else by_t) + (0 if by_y is None else (by_y.conj() * slope).real.sum())
    # Zero in value; its gradient is that of the event's function at a fixed time.
    change = event(at, y)
    moved = (change.detach() - change) / rate
    return time + moved.to(time.dtype), y + slope * moved.to(y.dtype)
