"""The ways to run a solve whose steps are common to the whole state: one for each gradient mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import adaptive, event, grid
from dynamicblocks.functional.adjoint import (
    AdjointTask,
    CompiledTask,
    adjoint_norm,
    adjoint_states,
    compiled_adjoint,
    parameters_of,
    with_norm,
)
from dynamicblocks.functional.checkpointed import checkpointed
from dynamicblocks.functional.dense import Dense
from dynamicblocks.functional.grid import GridMarch
from dynamicblocks.functional.lost import describe_lost
from dynamicblocks.functional.methods import AdaptiveMethod, GridMethod, Method, as_method, foreign_options
from dynamicblocks.functional.nested import Nesting, tensors_in
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.request import Request
from dynamicblocks.functional.reversible import reversed_back
from dynamicblocks.functional.solution import Solution
from dynamicblocks.functional.walk import Event, StepLike, Walk, walk
from dynamicblocks.marching import AdaptiveMarch

Interpolant = Callable[[Tensor | float], Any]
Found = tuple[Walk, Interpolant | None]

# Steps that gradient="checkpoint" keeps on a level: with 16, a thousand steps are taken two to three times more.
STATES = 16


class Run(Protocol):
    """What solves a problem, once."""

    def __call__(self) -> Found: ...


def make_run(request: Request, nesting: Nesting, problem: Problem, norm: Any) -> Run:
    """The run that a request asks for; ``norm`` is one of the problem's state."""
    if not isinstance(request.method, (AdaptiveMethod, GridMethod)):
        raise ConfigurationError(f"solve has no method {request.method.name}; odeint has")
    return RUNS[request.gradient](request, nesting, problem, norm)


@dataclass
class _Marched:
    """A loop over a problem, with the grid where it has one and the event that ends it."""

    march: AdaptiveMarch | GridMarch
    grid: Tensor | None
    event: Event | None

    @classmethod
    def of(cls, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> "_Marched":
        method, options = request.method, {**request.options, "norm": norm}
        happened = None
        if request.event_fn is not None:
            accuracy = event.least(adaptive.make_tolerance(problem, request.rtol, request.atol, None).atol)
            happened = Event(problem, happening(request, nesting, problem), accuracy)
        if isinstance(method, GridMethod):
            integrator = method.make(**method.chosen({**options, "rtol": request.rtol, "atol": request.atol}))
            march = grid.make_march(problem, integrator, options)
            return cls(march, grid.make_grid(problem, request.y0, options), happened)
        if not isinstance(method, AdaptiveMethod):
            raise ConfigurationError(f"solve has no method {method.name}; odeint has")
        options = {"max_num_steps": request.max_steps, **options}
        rule = method.make(**method.chosen(options))
        return cls(adaptive.make_march(problem, rule, request.rtol, request.atol, options), None, happened)


class Backprop:
    """Steps with a graph."""

    def __init__(self, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> None:
        self.request, self.nesting, self.problem = request, nesting, problem
        self.marched = _Marched.of(request, nesting, problem, norm)
        # A grid is checked before anything is solved.
        march, points = self.marched.march, self.marched.grid
        self.steps = (
            adaptive.steps(problem, march)
            if isinstance(march, AdaptiveMarch)
            else grid.steps(problem, march, problem.t if points is None else points)
        )

    def __call__(self) -> Found:
        kept: list[StepLike] | None = [] if self.request.dense else None
        found = walk(self.problem, self.steps, self.marched.event, kept=kept)
        if not kept:
            return found, None
        end = self.problem.times[-1] if found.event_time is None else found.event_time
        dense = Dense(kept, end)

        def interpolant(t: Tensor | float) -> Any:
            states = dense(t)
            return self.nesting.nested(states, tuple(states.shape[: states.ndim - self.problem.y0.ndim]))

        return found, interpolant


class Checkpoint:
    """Steps that the backward pass takes again, from a few states that were kept."""

    def __init__(self, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> None:
        _refuse_dense(request)
        self.request, self.problem = request, problem
        self.marched = _Marched.of(request, nesting, problem, norm)

    def __call__(self) -> Found:
        marched, request = self.marched, self.request
        states = request.gradient_options.get("states", STATES)
        params, modules = _differentiable(request), _modules(request)
        found = checkpointed(
            self.problem, marched.march, states=states, params=params, modules=modules,
            grid=marched.grid, event=marched.event,
        )  # fmt: skip
        return found, None


class Reversed:
    """Steps that the backward pass takes back."""

    def __init__(self, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> None:
        _refuse_dense(request)
        self.request, self.problem = request, problem
        self.marched = _Marched.of(request, nesting, problem, norm)

    def __call__(self) -> Found:
        marched, request = self.marched, self.request
        params, modules = _differentiable(request), _modules(request)
        found = reversed_back(
            self.problem, marched.march, params=params, modules=modules, grid=marched.grid, event=marched.event
        )
        return found, None


class Adjoint:
    """Gradients by the adjoint equation."""

    def __init__(self, request: Request, nesting: Nesting, problem: Problem, norm: Any) -> None:
        _refuse_dense(request)
        if request.event_fn is not None:
            raise ConfigurationError(
                "gradient='adjoint' knows the times of output only, not event_fn; use another mode, or odeint_event "
                "with odeint_interface=odeint_adjoint"
            )
        asked = request.gradient_options
        options, method, given = _of_adjoint(request)
        forward, backward = ({**each} for each in (options, given))
        for each, rule in ((forward, request.method), (backward, method)):
            if isinstance(rule, AdaptiveMethod):
                each.setdefault("max_num_steps", request.max_steps)
        if norm is not None:
            forward["norm"] = norm
        interpolant = bool(asked.get("interpolant", False))
        backward["norm"] = adjoint_norm(backward.get("norm"), norm, problem.layout, interpolant=interpolant)
        self.params = _differentiable(request)
        self.task = AdjointTask(
            problem=problem,
            y0=request.y0,
            method=request.method,
            tolerances=(request.rtol, request.atol),
            options=forward,
            backward_method=method,
            backward_tolerances=(asked.get("rtol", request.rtol), asked.get("atol", request.atol)),
            backward_options=backward,
            happening=None,
            lost=_refuse_lost,
            interpolant=interpolant,
        )

    def __call__(self) -> Found:
        _, states = adjoint_states(self.task, self.params)
        return Walk(list(states.unbind())), None


def compiled_adjoint_solution(request: Request) -> Solution:
    """The solution of a request for the adjoint in the compiled loop."""
    asked = request.gradient_options
    options, method, given = _of_adjoint(request)
    refused = [name for name, there in (
        ("event_fn", request.event_fn), ("dense", request.dense), ("params", asked.get("params")),
        ("interpolant", asked.get("interpolant")), ("norm", request.options.get("norm")),
    ) if there]  # fmt: skip
    if refused:
        raise ConfigurationError(f"a compiled adjoint does not take {', '.join(refused)}; leave it, or compile, out")
    backward = (method, (asked.get("rtol", request.rtol), asked.get("atol", request.atol)), with_norm(given))
    return compiled_adjoint(
        CompiledTask(
            request.func, request.args, request.y0, request.t, request.method, (request.rtol, request.atol), options,
            backward, request.max_steps, request.return_failures,
        )
    )  # fmt: skip


def _of_adjoint(request: Request) -> tuple[dict[str, Any], Method, dict[str, Any]]:
    """The options of the forward pass, and the method and options of the backward pass."""
    options = {name: value for name, value in request.options.items() if name != "norm"}
    own = request.gradient_options.get("method")
    method = request.method if own is None else as_method(own)
    given = dict(request.gradient_options.get("options", options if own is None else {}))
    foreign = foreign_options(method, given)
    if foreign:
        raise ConfigurationError(f"{method.name}, the method of the adjoint, does not take {', '.join(foreign)}")
    return options, method, given


RUNS: dict[str, Callable[[Request, Nesting, Problem, Any], Run]] = {
    "backprop": Backprop,
    "checkpoint": Checkpoint,
    "adjoint": Adjoint,
    "reversible": Reversed,
}


def happening(request: Request, nesting: Nesting, problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The event's function over the problem's time and state."""
    function = request.event_fn
    if function is None:
        raise ConfigurationError("no event_fn was given")
    return event.combined(lambda t, y: function(t, nesting.nested(y), *request.args), problem)


def _refuse_dense(request: Request) -> None:
    if request.dense:
        raise ConfigurationError(
            f"gradient={request.gradient!r} gives states at the times of output, not dense ones; leave dense out, or "
            "use gradient='backprop'"
        )


def _modules(request: Request) -> list[nn.Module]:
    return [request.func] if isinstance(request.func, nn.Module) else []


def _differentiable(request: Request) -> list[Tensor]:
    """The tensors beside the initial state and the times that may need gradients: each once, frozen ones left out."""
    found = [
        *(parameters_of(request.func) if isinstance(request.func, nn.Module) else []),
        *tensors_in(request.args),
        *request.gradient_options.get("params", ()),
    ]
    return list({id(tensor): tensor for tensor in found if tensor.requires_grad}.values())


def _refuse_lost(lost: list[Tensor]) -> None:
    raise ConfigurationError(
        f"{describe_lost(lost)}: the adjoint method would lose it. Hand them over in args or in "
        "gradient_options={'params': (...)}, or use gradient='backprop'"
    )
