"""The project's own face over the solvers: one function, one solution object."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.counting import counted
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.arguments import BACKPROP, check_brought, differentiated
from dynamicblocks.gradients import Adjoint, Backprop, Gradient, as_gradient, gradients
from dynamicblocks.gradients.adjoint_compiled import CompiledAdjoint, compiled_adjoint, with_norm
from dynamicblocks.gradients.gradient import ProblemCourse
from dynamicblocks.gradients.graph import OutsideTransforms
from dynamicblocks.integrators import AdaptiveMethod, GridMethod, Integrator, as_method, foreign_options
from dynamicblocks.solving.batched_solve import SampleProblem, solve_batched
from dynamicblocks.solving.callbacks import warn_of_uncalled
from dynamicblocks.solving.compiled_solve import solve_compiled
from dynamicblocks.solving.dense import Dense
from dynamicblocks.solving.events import EventFunction, rerouted
from dynamicblocks.solving.failures import SolveError, check_states, explained
from dynamicblocks.solving.grid_loop import ProblemOnGrid, check_last_slope
from dynamicblocks.solving.make_course import make_course
from dynamicblocks.solving.options import step_limit
from dynamicblocks.solving.outputs import Outputs, StepLike
from dynamicblocks.solving.problem import Problem, make_problem
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.solution import Solution, Statistics
from dynamicblocks.solving.status import Status
from dynamicblocks.tracing import untraced

RTOL, ATOL, MAX_STEPS = 1e-5, 1e-7, 10_000
ON_FAILURE = ("raise", "return")


@untraced
def solve(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    args: tuple[Any, ...] = (),
    method: Integrator | str = "dopri5",
    rtol: Any = 1e-5,
    atol: Any = 1e-7,
    options: Mapping[str, Any] | None = None,
    gradient: Gradient | str = "backprop",
    gradient_options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    batched: bool = False,
    dense: bool = False,
    compile: bool = False,
    max_steps: int | None = None,
    on_failure: str = "raise",
) -> Solution:
    """Solve dy/dt = func(t, y, *args), y(t[0]) = y0, and say what it took.

    Args:
        func: right-hand side; ``t`` has no dimensions or, with ``batched``, shape (B, 1, ..., 1).
        y0: a tensor, or any nesting of tuples, lists and dicts of tensors; with ``batched`` each has the samples first.
        t: times, shape (T,) or, for samples with times of their own, (B, T); strictly increasing or decreasing.
        args: handed on to ``func`` and ``event_fn``; tensors in it get gradients under every gradient mode.
        method: as in :func:`~dynamicblocks.odeint`.
        rtol, atol: the error of a step may be ``atol + rtol |y|``: numbers, or tensors that broadcast to the state.
        options: of the method, as in :func:`~dynamicblocks.odeint`; those of another method are an error.
        gradient: how the backward pass is made: a :class:`~dynamicblocks.Gradient`, or a name, also with arguments
            such as ``"checkpoint(states=4)"``. ``"backprop"``: through the steps. ``"checkpoint"``: through the steps,
            taken again from a few that were kept. ``"adjoint"``: by the continuous adjoint equation. ``"reversible"``:
            through steps taken back one by one (``alf``, ``reversible_heun``). The parameters of ``func`` (a module, a
            method of one, a partial function or an object that holds some) and the tensors in ``args`` are found; a
            tensor that would lose its gradient is an error.
        gradient_options: of ``"checkpoint"``: ``states``, how many are kept on a level (16), and ``params``. Of
            ``"reversible"``: ``max_drift``, beyond which the first state, taken back, is an error. Of ``"adjoint"``:
            ``rtol``, ``atol``, ``method``, ``options`` of the adjoint equation, ``params``, and ``interpolant=True`` to
            keep the steps of the forward pass, two states and two slopes each, rather than solve for y back in time.
            ``params`` are tensors that get gradients, beside those that are found.
        event_fn: g(t, y, *args); the solve ends where an entry of g is zero or changes its sign, or at the last time.
            With ``batched`` g has shape (B,) or, for several events, (B, K), and each sample ends at its own.
        batched: each sample takes steps of its own, whatever its neighbours are, and ends at its last time (steps that
            are common to the state go beyond it, and states are interpolated). Explicit adaptive methods.
        dense: also return the solution as a function of time.
        compile: compile the loop, several attempts in one call: the first solve takes long, those after it little.
            Explicit adaptive methods, ``backprop`` and ``adjoint``; explicit methods on a grid, ``backprop``. What
            cannot be compiled runs as usual, with a warning.
        max_steps: most steps: of an adaptive method, accepted or not, in the solve or of each sample (10,000 by
            default); of a method on a grid, those that ``step_size`` or ``grid_constructor`` may make (1,000,000).
        on_failure: "raise" a :class:`~dynamicblocks.SolveError`, or "return" what was solved, with its status.

    Returns:
        A :class:`~dynamicblocks.Solution`.

    Raises:
        ConfigurationError: an argument that cannot be used, alone or beside the others.
        SolveError: the solve did not reach the last time, came there with values that are not finite, or took a step
            of an implicit method whose equations were not solved.

    >>> import torch
    >>> found = solve(lambda t, y: {"x": -y["x"]}, {"x": torch.ones(1)}, torch.tensor([0.0, 1.0]))
    >>> found.y["x"], found.status.name, found.statistics.rejected
    (tensor([[1.0000],
            [0.3679]]), 'DONE', 0)
    """
    chosen = as_method(method)
    given = dict(options or {})
    check_brought(
        chosen, rtol=(rtol, RTOL), atol=(atol, ATOL), options=(given or None, None), max_steps=(max_steps, None)
    )
    foreign = foreign_options(chosen, given)
    if foreign:
        raise ConfigurationError(
            f"{chosen.name} does not take the options {', '.join(foreign)}; it takes {', '.join(chosen.options)}"
        )
    compile = bool(given.pop("compile", False)) or compile
    asked = dict(gradient_options or {})
    params = tuple(asked.pop("params", ()))
    mode = _mode(gradient, asked, params)
    if on_failure not in ON_FAILURE:
        raise ConfigurationError(f"on_failure must be one of {', '.join(map(repr, ON_FAILURE))}, got {on_failure!r}")
    if max_steps is not None:
        if max_steps < 1:
            raise ConfigurationError(f"max_steps must be at least 1, got {max_steps}")
        given = {"max_num_steps": max_steps, **given}
    scheme = Scheme(chosen, rtol, atol, given, strict=True)
    own = batched or (isinstance(t, Tensor) and t.ndim == 2)
    on_grid = compile and isinstance(chosen, GridMethod) and not own
    if on_grid:
        if not isinstance(mode, Backprop):
            raise ConfigurationError(f"compiled steps on a grid make their gradients by 'backprop', got {gradient!r}")
        scheme = replace(scheme, options={**given, "compile": True})
    elif compile or own:
        most = step_limit(given, MAX_STEPS) if scheme.settings is None else scheme.settings.max_steps
        request = SampleProblem(func, y0, t, args, scheme, most, func, event_fn, dense, on_failure == "return", compile)
        with OutsideTransforms():
            found = _of_samples(request, mode, gradient) if own else _compiled(request, mode, gradient, params)
        counted(found.statistics.evaluations)
        return found
    if isinstance(chosen, AdaptiveMethod) and not chosen.given:
        scheme = replace(scheme, options={"max_num_steps": MAX_STEPS, **given})
    if not isinstance(chosen, AdaptiveMethod | GridMethod):
        raise ConfigurationError(f"solve has no method {chosen.name}; odeint has")
    if dense and not isinstance(mode, Backprop):
        raise ConfigurationError(
            f"gradient={gradient!r} gives states at the times of output, not dense ones; leave dense out, or use "
            "gradient='backprop'"
        )
    known = () if mode is BACKPROP else differentiated(func, args, params)
    with OutsideTransforms():
        problem = make_problem(func, y0, t, args, tensors=known, timed=True)
        event = None if event_fn is None else EventFunction(lambda t, y: event_fn(t, y, *args), problem)
        kept: list[StepLike] | None = [] if dense else None
        course = make_course(scheme, problem, event=event, kept=kept)
        return _solved(mode, course, event, kept, return_failures=on_failure == "return")


def _mode(gradient: Gradient | str, options: Mapping[str, Any], params: tuple[Tensor, ...]) -> Gradient:
    """The gradient mode with its options, which are keywords of what its name makes."""
    if gradient == "backprop" and not options and not params:
        return BACKPROP
    if isinstance(gradient, str) and "(" not in gradient:
        names = sorted(gradients, key=lambda name: (name != "backprop", name != "checkpoint", name))
        if gradient not in gradients:
            raise ConfigurationError(f"gradient must be one of {', '.join(map(repr, names))}, got {gradient!r}")
        takes = [*inspect.signature(gradients[gradient]).parameters, *([] if gradient == "backprop" else ["params"])]
        unknown = sorted({*options, *(["params"] if params else [])} - set(takes))
        if unknown:
            what = f"takes the options {', '.join(takes)}" if takes else "takes no options"
            raise ConfigurationError(f"gradient={gradient!r} {what}, got {', '.join(unknown)}")
        return as_gradient(gradient, **options)
    if options:
        raise ConfigurationError(
            f"gradient={gradient!r} is an object, or a string with arguments, and brings its own: leave "
            f"{', '.join(options)} out of gradient_options"
        )
    return as_gradient(gradient)


def _of_samples(request: SampleProblem, mode: Gradient, gradient: Gradient | str) -> Solution:
    request.pair()
    if not isinstance(mode, Backprop):
        raise ConfigurationError(
            f"with steps of its own for each sample gradients are made by 'backprop', got {gradient!r}"
        )
    warn_of_uncalled(request.func, request.scheme.method, "a solve with steps of its own for each sample")
    return solve_batched(request)


def _compiled(request: SampleProblem, mode: Gradient, gradient: Gradient | str, params: tuple[Tensor, ...]) -> Solution:
    warn_of_uncalled(request.func, request.scheme.method, "a compiled loop")
    if isinstance(mode, Backprop):
        return solve_compiled(request)
    if not isinstance(mode, Adjoint):
        raise ConfigurationError(f"a compiled loop makes its gradients by 'backprop' or 'adjoint', got {gradient!r}")
    refused = [name for name, there in (
        ("event_fn", request.event_fn), ("dense", request.dense), ("params", params),
        ("interpolant", mode.interpolant), ("norm", request.options.get("norm")),
    ) if there]  # fmt: skip
    if refused:
        raise ConfigurationError(f"a compiled adjoint does not take {', '.join(refused)}; leave it, or compile, out")
    return compiled_adjoint(
        CompiledAdjoint(
            request.func, request.args, request.y0, request.t, request.scheme, with_norm(mode.backward(request.scheme)),
            request.max_steps, request.return_failures,
        )
    )  # fmt: skip


def _solved(
    mode: Gradient,
    course: ProblemCourse,
    event: EventFunction | None,
    kept: list[StepLike] | None,
    *,
    return_failures: bool,
) -> Solution:
    """The solution of a course."""
    problem, message, status = course.problem, "", Status.DONE
    nesting = problem.nesting
    assert course.scheme is not None
    compiled = "a compiled loop" if course.scheme.options.get("compile") else ""
    warn_of_uncalled(problem.func, course.scheme.method, compiled)
    try:
        found = mode.run(course, problem.y0)
        ends = [] if found.event_state is None else [found.event_state]
        times = [*problem.times[: len(found.states)], found.event_time or 0.0]
        check_states(times, [*found.states, *ends], problem.field.tally)
        if isinstance(course, ProblemOnGrid) and not ends:
            check_last_slope(course, found.states)
    except SolveError as error:
        failure = explained(error, problem.y0, problem.func)
        if not return_failures:
            raise failure from None
        message, status = str(failure), error.status
        found = Outputs(list(error.circumstances.states))
    if problem.field.late is not None:
        problem.field.late()
    states = found.states if len(found.states) else [problem.y0]
    y, lost = Outputs(states).stacked(), len(problem.times) - len(states)
    if lost:
        y = torch.cat([y, torch.full_like(y[:1], torch.nan).expand(lost, *y.shape[1:])])
    event_t = event_y = interpolant = None
    if event is not None:
        event_t, event_y = _event(problem, event, found)
        status = Status.EVENT if found.event_time is not None else status
    if kept:
        last = problem.times[-1] if status == Status.DONE else kept[-1].t1
        dense = Dense(kept, last if found.event_time is None else found.event_time)

        def interpolant(t: Tensor | float) -> Any:
            states = dense(t)
            return nesting.nested(states, tuple(states.shape[: states.ndim - problem.y0.ndim]))

    tally = problem.field.tally
    counted(tally.evaluations)
    return Solution(
        problem.t,
        nesting.nested(y, (len(y),)),
        status,
        Statistics(tally.evaluations, tally.accepted, tally.rejected, tally.seconds, tally.not_converged),
        interpolant,
        event_t,
        event_y,
        message,
    )


def _event(problem: Problem, event: EventFunction, found: Outputs) -> tuple[Tensor, Any]:
    """The time and state of the event, not a number where there was none."""
    nesting = problem.nesting
    if found.event_time is None or found.event_state is None:
        return problem.t.new_tensor(torch.nan), nesting.nested(torch.full_like(problem.y0, torch.nan))
    event_t, event_y = rerouted(problem, event, problem.t.new_tensor(found.event_time), found.event_state)
    return event_t, nesting.nested(event_y)
