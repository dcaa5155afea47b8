"""Solves with steps that are common to the state, in the compiled loop: a batch of one sample."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.solving.batched_solve import SampleProblem, solve_batched
from dynamicblocks.solving.events import checked_value
from dynamicblocks.solving.nesting import Nesting, leaves, rebuilt
from dynamicblocks.solving.solution import Solution, Statistics


def solve_compiled(problem: SampleProblem) -> Solution:
    """The solution of a problem without samples."""
    if not isinstance(problem.t, Tensor) or problem.t.ndim != 1:
        raise ArgumentError("t must be a one-dimensional torch.Tensor of times")
    if problem.dense:
        raise ConfigurationError("dense=True and compile=True do not go together; leave one out")
    # Here, where the state has no samples.
    nesting = Nesting.of(problem.y0, 0)
    rtol, atol = problem.scheme.rtol, problem.scheme.atol
    found = solve_batched(
        replace(
            problem,
            func=_one_sample(problem.func),
            role=f"{problem.role}, one sample",
            y0=_mapped(lambda y: y[None], problem.y0),
            event_fn=None if problem.event_fn is None else _one_event(problem.event_fn),
            scheme=replace(
                problem.scheme,
                rtol=_lifted(nesting.tolerance(rtol, "rtol")),
                atol=_lifted(nesting.tolerance(atol, "atol")),
            ),
        )
    )
    statistics, status = found.statistics, found.status
    return Solution(
        problem.t,
        _mapped(lambda y: y[:, 0], found.y),
        status[0] if isinstance(status, list) else status,
        Statistics(statistics.evaluations, int(statistics.accepted), int(statistics.rejected), None),
        None,
        None if found.event_t is None else found.event_t[0],
        None if found.event_y is None else _mapped(lambda y: y[0], found.event_y),
        found.message,
    )


def _one_sample(func: Callable[..., Any]) -> Callable[..., Any]:
    def batch_of_one(t: Tensor, y: Any, *args: Any) -> Any:
        return _mapped(lambda slope: slope[None], func(t.reshape(()), _mapped(lambda part: part[0], y), *args))

    return batch_of_one


def _one_event(event_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def batch_of_one(t: Tensor, y: Any, *args: Any) -> Tensor:
        value = event_fn(t.reshape(()), _mapped(lambda part: part[0], y), *args)
        return checked_value(value).reshape(1, -1)

    return batch_of_one


def _mapped(change: Callable[[Tensor], Tensor], nested: Any) -> Any:
    if isinstance(nested, Tensor):
        return change(nested)
    # All of them first: what is no tensor is an error that says so.
    changed = [change(tensor) for _, tensor in leaves(nested, "what func returns")]
    return rebuilt(nested, iter(changed))


def _lifted(tolerance: Any) -> Any:
    return tolerance[None] if isinstance(tolerance, Tensor) and tolerance.ndim else tolerance
