"""Solves that end when a function of time and state changes its sign."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.functional import grid
from dynamicblocks.functional.errors import ArgumentError
from dynamicblocks.functional.problem import Problem

MAX_GRID_STEPS = 20_000


def combined(event_fn: Callable[[Tensor, Any], Tensor], problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The events as one function of time and the one tensor: positive at the begin, zero when the first happens."""
    layout = problem.layout
    with torch.no_grad():
        signs = torch.sign(event_fn(problem.t[0], layout.unflat(problem.y0)))

    def event(t: Tensor, y: Tensor) -> Tensor:
        return torch.min(event_fn(t, layout.unflat(y)) * signs)

    return event


def grid_steps(problem: Problem, march: grid.GridMarch, options: Mapping[str, Any]) -> Iterator[grid.GridStep]:
    """Steps of one size."""
    if options.get("step_size") is None:
        raise ArgumentError(
            f"{march.integrator.name} finds an event with the option step_size only: the step at which it looks"
        )
    size = grid.step_size(options) * problem.direction
    points = (problem.times[0] + n * size for n in range(MAX_GRID_STEPS + 1))
    moving = problem.t[0] + size * torch.arange(MAX_GRID_STEPS + 1).to(problem.t) if problem.t.requires_grad else None
    yield from march.steps(list(points), moving)
    raise SolverError(
        f"no event in {MAX_GRID_STEPS} steps of {size:g}: reached maximum number of iterations {MAX_GRID_STEPS}. Does "
        "event_fn change its sign?"
    )


def check_event_times(problem: Problem) -> None:
    """A solve up to an event has a begin and a direction."""
    if len(problem.times) != 2:
        raise ConfigurationError(
            f"We require len(t) == 2 when in event handling mode (a begin and a direction), but got "
            f"len(t)={len(problem.times)}."
        )


def least(atol: float | Tensor) -> float:
    """The accuracy of an event's time: the absolute tolerance, or where it is zero the precision of double."""
    value = float(atol.min()) if isinstance(atol, Tensor) else atol
    return max(value, 1e-15)
