"""``solve`` with steps that are common to the whole state."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import adaptive, event, grid
from dynamicblocks.functional.adjoint import (
    AdjointTask,
    adjoint_norm,
    adjoint_states,
    describe_lost,
    parameters_of,
)
from dynamicblocks.functional.dense import Dense
from dynamicblocks.functional.diagnosis import explained
from dynamicblocks.functional.methods import AdaptiveMethod, GridMethod, as_method, foreign_options
from dynamicblocks.functional.nested import Nesting, leaves, tensors_in
from dynamicblocks.functional.norms import mixed_norm
from dynamicblocks.functional.odeint import rerouted
from dynamicblocks.functional.problem import Problem, make_problem
from dynamicblocks.functional.request import Request
from dynamicblocks.functional.solution import Solution, Statistics, status_of
from dynamicblocks.functional.walk import Event, StepLike, Walk, walk
from dynamicblocks.marching import SolveError, Status

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
ADJOINT = ("rtol", "atol", "method", "options", "params")


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
    run: _Adjoint | _Steps
    if request.gradient == "adjoint":
        run = _Adjoint(request, nesting, problem, norm)
    elif isinstance(request.method, (AdaptiveMethod, GridMethod)):
        run = _Steps(request, nesting, problem, norm)
    else:
        raise ConfigurationError(f"solve has no method {request.method.name}; odeint has")
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


class _Steps:
    """A solve whose steps are differentiated."""

    def __init__(self, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> None:
        self.request, self.nesting, self.problem = request, nesting, problem
        self.steps = _steps(request, problem, {**request.options, "norm": norm})

    def __call__(self) -> tuple[Walk, Callable[[Tensor | float], Any] | None]:
        request, problem = self.request, self.problem
        kept: list[StepLike] | None = [] if request.dense else None
        found = walk(problem, self.steps, _event_of(request, self.nesting, problem), kept=kept)
        if not kept:
            return found, None
        end = problem.times[-1] if found.event_time is None else found.event_time
        dense = Dense(kept, end)

        def interpolant(t: Tensor | float) -> Any:
            states = dense(t)
            return self.nesting.nested(states, tuple(states.shape[: states.ndim - problem.y0.ndim]))

        return found, interpolant


def _steps(request: Request, problem: Problem, options: dict[str, Any]) -> Iterable[StepLike]:
    method = request.method
    if isinstance(method, GridMethod):
        integrator = method.make(**method.chosen({**options, "rtol": request.rtol, "atol": request.atol}))
        march = grid.make_march(problem, integrator, options)
        return grid.steps(problem, march, grid.make_grid(problem, request.y0, options))
    if not isinstance(method, AdaptiveMethod):
        raise ConfigurationError(f"solve has no method {method.name}; odeint has")
    options = {"max_num_steps": request.max_steps, **options}
    rule = method.make(**method.chosen(options))
    return adaptive.steps(problem, adaptive.make_march(problem, rule, request.rtol, request.atol, options))


def _event_of(request: Request, nesting: Nesting, problem: Problem) -> Event | None:
    if request.event_fn is None:
        return None
    accuracy = event.least(adaptive.make_tolerance(problem, request.rtol, request.atol, None).atol)
    return Event(problem, _happening(request, nesting, problem), accuracy)


def _happening(request: Request, nesting: Nesting, problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    function = request.event_fn
    if function is None:
        raise ConfigurationError("no event_fn was given")
    return event.combined(lambda t, y: function(t, nesting.nested(y), *request.args), problem)


def _event(request: Request, nesting: Nesting, problem: Problem, found: Walk) -> tuple[Tensor, Any]:
    """The time and state of the event, not a number where there was none."""
    if found.event_time is None or found.event_state is None:
        return problem.t.new_tensor(torch.nan), nesting.nested(torch.full_like(problem.y0, torch.nan))
    time_found = problem.t.new_tensor(found.event_time)
    event_t, event_y = rerouted(problem, _happening(request, nesting, problem), time_found, found.event_state)
    return event_t, nesting.nested(event_y)


class _Adjoint:
    """A solve whose gradients come from the adjoint equation."""

    def __init__(self, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> None:
        for name, asked in (("event_fn", request.event_fn), ("dense", request.dense)):
            if asked:
                raise ConfigurationError(
                    f"gradient='adjoint' knows the times of output only, not {name}; use gradient='backprop', or for "
                    "an event odeint_event with odeint_interface=odeint_adjoint"
                )
        unknown = sorted(set(request.adjoint) - set(ADJOINT))
        if unknown:
            raise ConfigurationError(f"adjoint takes {', '.join(ADJOINT)}, got {', '.join(unknown)}")
        options = {name: value for name, value in request.options.items() if name != "norm"}
        own = request.adjoint.get("method")
        method = request.method if own is None else as_method(own)
        given = dict(request.adjoint.get("options", options if own is None else {}))
        foreign = foreign_options(method, given)
        if foreign:
            raise ConfigurationError(f"{method.name}, the method of the adjoint, does not take {', '.join(foreign)}")
        forward, backward = ({**each} for each in (options, given))
        for each, rule in ((forward, request.method), (backward, method)):
            if isinstance(rule, AdaptiveMethod):
                each.setdefault("max_num_steps", request.max_steps)
        if norm is not None:
            forward["norm"] = norm
        backward["norm"] = adjoint_norm(backward.get("norm"), norm, problem.layout)
        self.params = _differentiable(request)
        self.task = AdjointTask(
            problem=problem,
            y0=request.y0,
            method=request.method,
            tolerances=(request.rtol, request.atol),
            options=forward,
            backward_method=method,
            backward_tolerances=(request.adjoint.get("rtol", request.rtol), request.adjoint.get("atol", request.atol)),
            backward_options=backward,
            happening=None,
            lost=_refuse_lost,
        )

    def __call__(self) -> tuple[Walk, None]:
        _, states = adjoint_states(self.task, self.params)
        return Walk(list(states.unbind())), None


def _differentiable(request: Request) -> list[Tensor]:
    """The tensors beside the initial state and the times that may need gradients: each once, frozen ones left out."""
    found = [
        *(parameters_of(request.func) if isinstance(request.func, nn.Module) else []),
        *tensors_in(request.args),
        *request.adjoint.get("params", ()),
    ]
    return list({id(tensor): tensor for tensor in found if tensor.requires_grad}.values())


def _refuse_lost(lost: list[Tensor]) -> None:
    raise ConfigurationError(
        f"{describe_lost(lost)}: the adjoint method would lose it. Hand them over in args or in "
        "adjoint={'params': (...)}, or use gradient='backprop'"
    )
