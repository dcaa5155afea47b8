"""``solve`` with steps that are common to the whole state."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.functional.diagnosis import explained
from dynamicblocks.functional.nested import Nesting, leaves
from dynamicblocks.functional.norms import mixed_norm
from dynamicblocks.functional.odeint import rerouted
from dynamicblocks.functional.problem import Problem, make_problem
from dynamicblocks.functional.request import Request
from dynamicblocks.functional.runs import happening, make_run
from dynamicblocks.functional.solution import Solution, Statistics, status_of
from dynamicblocks.functional.walk import Walk
from dynamicblocks.marching import SolveError, Status

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


class _Timed:
    """A right-hand side over one tensor, with the time that was spent in it and the callbacks of the caller's."""

    def __init__(self, request: Request, nesting: Nesting) -> None:
        self.func = nesting.func(request.func, request.args)
        self.seconds = 0.0
        for name in (*CALLBACKS, *(f"{name}_adjoint" for name in CALLBACKS)):
            callback = getattr(request.func, name, None)
            if callback is not None and name in CALLBACKS:
                setattr(self, name, lambda t, y, h, call=callback: call(t, nesting.nested(y), h))
            elif callback is not None:
                setattr(self, name, callback)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        start = time.perf_counter()
        slope = self.func(t, y)
        self.seconds += time.perf_counter() - start
        return slope


def solve_shared(request: Request) -> Solution:
    """The solution of a request without samples."""
    nesting = Nesting.of(request.y0, 0)
    timed = _Timed(request, nesting)
    problem = make_problem(timed, nesting.flat(request.y0), request.t)
    norm = _norm(request, nesting)
    run = make_run(request, nesting, problem, norm)
    message = ""
    status = Status.DONE
    try:
        found, interpolant = run()
    except SolveError as error:
        failure = explained(error, problem, request.func)
        if not request.return_failures:
            raise failure from None
        message, status = str(failure), status_of(error)
        found, interpolant = Walk(list(error.circumstances.states)), None
    states = found.states
    lost = len(problem.times) - len(states)
    y = torch.stack([*states, *([torch.full_like(states[0], torch.nan)] * lost)])
    event_t = event_y = None
    if request.event_fn is not None:
        event_t, event_y = _event(request, nesting, problem, found)
        status = Status.EVENT if found.event_time is not None else status
    tally = problem.field.tally
    return Solution(
        problem.t,
        nesting.nested(y, (len(y),)),
        status,
        Statistics(tally.evaluations, tally.accepted, tally.rejected, timed.seconds),
        interpolant,
        event_t,
        event_y,
        message,
    )


def _norm(request: Request, nesting: Nesting) -> Callable[[Tensor], Any] | None:
    """The norm of the one tensor, from that of the caller's state."""
    own = request.options.get("norm")
    if own is not None:
        return lambda flat: own(nesting.nested(flat))
    if nesting.single:
        return None
    return lambda flat: mixed_norm(tuple(tensor for _, tensor in leaves(nesting.nested(flat))))


def _event(request: Request, nesting: Nesting, problem: Problem, found: Walk) -> tuple[Tensor, Any]:
    """The time and state of the event, not a number where there was none."""
    if found.event_time is None or found.event_state is None:
        return problem.t.new_tensor(torch.nan), nesting.nested(torch.full_like(problem.y0, torch.nan))
    time_found = problem.t.new_tensor(found.event_time)
    event_t, event_y = rerouted(problem, happening(request, nesting, problem), time_found, found.event_state)
    return event_t, nesting.nested(event_y)
