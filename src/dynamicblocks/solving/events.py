"""Solves that end when a function of time and state changes its sign."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, SolverError
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.refusal import differentiable_once
from dynamicblocks.transforms import refuse_forward_mode

MAX_EVENT_STEPS = 20_000
"""Steps in which an event is looked for beyond the last time, where the caller names no number."""

FLAT = (
    "event_fn does not change with time at the event, or not in a way that can be differentiated (as sign, floor or a "
    "comparison), so the time of the event has no gradient there; detach what is made of it, or let event_fn cross "
    "zero with a slope"
)
NO_SECOND = "times and states of events have no second derivatives; differentiate a solve to a fixed time twice"


@dataclass
class EventFunction:
    """The caller's events as one function of time and the one tensor: positive at the begin, zero at the first event.

    Args:
        function: g(t, y), with one entry or more, each of which is an event.
        problem: what is solved.

    Raises:
        SolverError: not a number at the begin.
    """

    function: Callable[[Tensor, Any], Tensor]
    problem: Problem
    at_begin: bool = field(init=False)
    """Whether an entry is zero at the first time, so that the event is there."""
    _signs: Tensor = field(init=False)

    def __post_init__(self) -> None:
        problem = self.problem
        with torch.no_grad():
            value = self._value(problem.t[0], problem.y0)
            self._signs = torch.sign(value)
            self.at_begin, unknown = torch.stack([(value == 0).any(), value.isnan().any()]).tolist()
        if unknown:
            raise SolverError(f"event_fn is not a number (NaN) at the first time, t = {problem.times[0]:.9g}")

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.min(self._value(t, y) * self._signs)

    def _value(self, t: Tensor, y: Tensor) -> Tensor:
        # Copies: times and the state of a step must stay what they are.
        return checked_value(self.function(t.clone(), self.problem.nesting.nested(y.clone())))


def checked_value(value: object) -> Tensor:
    """What an event function returned, or an error that says what it must return."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{value!r:.40}"
        raise ArgumentTypeError(f"event_fn must return a tensor of real numbers, made of t and y, got {got}")
    if not value.numel():
        raise ConfigurationError(f"event_fn must return at least one number, got shape {tuple(value.shape)}")
    return value


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
            f"no event in {MAX_EVENT_STEPS} steps (or up to the largest time there is): reached maximum number of "
            f"iterations {MAX_EVENT_STEPS}. Does event_fn change its sign?"
        )
    return found.event_time, found.event_state


def least(atol: float | Tensor) -> float:
    """The accuracy of an event's time: the absolute tolerance, or where it is zero the precision of double."""
    value = float(atol.min()) if isinstance(atol, Tensor) else atol
    return max(value, 1e-15)


def rerouted(problem: Problem, event: EventFunction, event_t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The time and state of an event with the gradients of the implicit function theorem; the values stay.

    An event at the begin is there wherever the begin is.
    """
    refuse_forward_mode("an event")
    if event.at_begin:
        return problem.t[0], problem.y0
    time = event_t.detach()
    at = time.to(problem.clock.dtype)
    moving = torch.ones_like(time, dtype=torch.bool)
    return moved(event, lambda: problem.field(at, y.detach()), at, time, y, moving)


def moved(
    event: Callable[[Tensor, Tensor], Tensor],
    slope: Callable[[], Tensor],
    at: Tensor,
    time: Tensor,
    y: Tensor,
    moving: Tensor,
) -> tuple[Tensor, Tensor]:
    """Times and states of events, of one solve or of samples, with gradients; the values stay.

    Args:
        event: g(t, y), zero at the events.
        slope: the field at the events.
        at: the times as ``event`` takes them.
        time: the times as they are returned.
        y: the states, with their gradients at fixed times.
        moving: which events move; the others have a time without a gradient.
    """
    if not torch.is_grad_enabled():
        return time, y
    change = event(at, y)
    if not (change.requires_grad or y.requires_grad):
        return time, y
    t_leaf, y_leaf = at.clone().requires_grad_(), y.detach().clone().requires_grad_()
    value = event(t_leaf, y_leaf)
    rate, slopes = torch.zeros_like(change), torch.zeros_like(y)
    if value.requires_grad:
        by_t, by_y = torch.autograd.grad(value.sum(), (t_leaf, y_leaf), allow_unused=True)
        if change.requires_grad:
            slopes = torch.where(_wide(moving, y), slope().detach(), slopes)
            rate = rate if by_t is None else rate + by_t
            if by_y is not None:
                rate = rate + _by_sample(by_y.conj() * slopes, rate)
        else:  # a function of time alone: its zero does not move
            moving = torch.zeros_like(moving)
    # The empty sum makes all that depends on y a part of the graph, as callers expect of a time.
    change = change + y.reshape(-1)[:0].abs().sum()
    return _Moved.apply(change, rate.detach(), slopes, moving, time, y)  # type: ignore[no-untyped-call]


def _wide(values: Tensor, y: Tensor) -> Tensor:
    return values.reshape(*values.shape, *(1 for _ in y.shape[values.ndim :]))


def _by_sample(product: Tensor, like: Tensor) -> Tensor:
    return product.real.reshape(*like.shape, -1).sum(-1)


class _Moved(torch.autograd.Function):
    """Times t and states y with dt = -dg / rate and dy + slope dt, where dg and dy are those at a fixed time."""

    @staticmethod
    def forward(
        ctx: Any, change: Tensor, rate: Tensor, slope: Tensor, moving: Tensor, time: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rate, slope, moving)
        ctx.kind = change.dtype
        return time.clone(), y.clone()

    @staticmethod
    def backward(ctx: Any, by_time: Tensor, by_y: Tensor) -> tuple[Tensor | None, ...]:
        rate, slope, moving = ctx.saved_tensors
        with torch.no_grad():
            total = by_time.to(rate.dtype) + _by_sample(by_y.conj() * slope, by_time)
            flat = moving & ~(rate.abs() > 0)
            # Rates first: what comes in may be a batch of gradients, which cannot be looked at.
            if bool(flat.any()) and bool((flat & (total != 0)).any()):
                raise SolverError(FLAT)
            by_change = torch.where(moving & ~flat, -total / torch.where(flat, 1, rate), 0).to(ctx.kind)
        by_change, by_y = differentiable_once((by_change, by_y), by_change, NO_SECOND)  # type: ignore[assignment]
        return by_change, None, None, None, None, by_y
