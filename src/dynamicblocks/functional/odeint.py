"""Initial value problems, with torchdiffeq's signatures and meaning."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.functional import adaptive, event, grid, scipy_solver
from dynamicblocks.functional.dense import Dense
from dynamicblocks.functional.diagnosis import explained
from dynamicblocks.functional.errors import ArgumentError
from dynamicblocks.functional.methods import METHODS, AdaptiveMethod, GridMethod, Method, as_method, check_options
from dynamicblocks.functional.problem import Problem, make_problem
from dynamicblocks.functional.request import Request
from dynamicblocks.functional.solve_compiled import solve_compiled
from dynamicblocks.functional.state import State
from dynamicblocks.functional.walk import Event, Keeper, StepLike, walk
from dynamicblocks.marching import SolveError, Step

Func = Callable[..., Any]
Tol = float | Tensor | tuple[float | Tensor, ...]


def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0, at given times; gradients by backpropagation through the steps.

    A drop-in replacement of ``torchdiffeq.odeint``: the same arguments, method names, options, results and types of
    errors. :func:`~dynamicblocks.odeint_adjoint` needs memory that does not grow with the number of steps.

    Args:
        func: right-hand side (t, y) -> dy/dt, with t a tensor without dimensions. It may carry ``callback_step``,
            ``callback_accept_step`` and ``callback_reject_step``, functions of (t, y, size of the step).
        y0: a tensor of any shape, or a tuple of them; floating point or complex.
        t: times, shape (T,), increasing or decreasing; the first is that of ``y0``.
        rtol, atol: the error of a step may be ``atol + rtol |y|``; numbers, tensors of the state's shape, or one of
            these for each tensor of a tuple. Adaptive methods only.
        method: see ``dynamicblocks methods``; ``"dopri5"`` by default.
        options: of the method.

            Adaptive methods: ``first_step``, ``min_step``, ``max_step``, ``max_num_steps`` (between two times of
            output; 1,000,000), ``safety`` (0.9), ``ifactor`` (10) and ``dfactor`` (0.2), the most by which a step may
            grow and shrink, ``pcoeff``, ``icoeff``, ``dcoeff`` (0, 1, 0: the PID controller's coefficients),
            ``step_t`` and ``jump_t``, tensors of times that steps must meet, the latter where func jumps, ``norm``
            of the state (the root mean square; of a tuple the largest of them), ``dtype`` (accepted; time is counted
            in double precision), ``compile``: run the loop compiled, several attempts in one call. The first solve then
            takes long; callbacks are not called, and times get no gradient.

            Methods on a grid: ``step_size``, or ``grid_constructor`` (func, y0, t) -> grid; by default the grid is
            ``t``. ``interp``: "linear" or "cubic", between the grid's points. ``perturb``: see func at the ends of
            a step from inside it.
        event_fn: (t, y) -> tensor; the solve ends when one of its entries becomes zero. Then ``t`` has two times: a
            begin, and another that gives the direction.

    Returns:
        The states at the times, shape (T, *shape), or a tuple of such. With ``event_fn``, the time of the event and
        the states at the begin and at the event.

    Raises:
        ConfigurationError: an argument that cannot be used, unknown names.
        SolveError: the solve did not reach the last time; its ``circumstances`` hold what was solved till then.

    >>> odeint(lambda t, y: -y, torch.tensor([1.0]), torch.tensor([0.0, 1.0]))
    tensor([[1.0000],
            [0.3679]])
    """
    chosen = as_method(method)
    problem = make_problem(func, y0, t)
    checked = check_options(chosen, options)
    if checked.pop("compile", False):
        return _compiled(func, y0, t, rtol, atol, chosen, checked, event_fn)
    if event_fn is not None:
        event.check_event_times(problem)
        time, states = states_until_event(problem, chosen, rtol, atol, checked, event.combined(event_fn, problem))
        return problem.t.new_tensor(time), problem.layout.unflat(states, (2,))
    return problem.layout.unflat(states_at_times(problem, chosen, y0, rtol, atol, checked), (len(problem.times),))


def _compiled(
    func: Func,
    y0: State,
    t: Tensor,
    rtol: Tol,
    atol: Tol,
    method: Method,
    options: dict[str, Any],
    event_fn: Callable[[Tensor, Any], Tensor] | None,
) -> Any:
    if event_fn is not None:
        raise ConfigurationError("an event and the option compile do not go together in odeint; use solve")
    if any(hasattr(func, f"callback_{name}") for name in ("step", "accept_step", "reject_step")):
        warnings.warn("a compiled loop does not call the callbacks of func", stacklevel=3)
    steps = int(options.pop("max_num_steps", adaptive.MAX_STEPS))
    found = solve_compiled(
        Request(func, y0, t, (), method, rtol, atol, options, "backprop", {}, None, False, steps, False, True, func)
    )
    return found.y


def states_at_times(
    problem: Problem,
    method: Method,
    y0: State,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any],
    kept: Keeper | None = None,
) -> Tensor:
    """The states of a problem at its times, as one tensor; ``kept`` takes the steps of an adaptive method."""
    if isinstance(method, GridMethod):
        integrator = method.make(**method.chosen({**options, "rtol": rtol, "atol": atol}))
        return grid.at_times(
            problem, grid.make_march(problem, integrator, options), grid.make_grid(problem, y0, options)
        )
    if isinstance(method, AdaptiveMethod):
        rule = method.make(**method.chosen(options))
        try:
            return adaptive.at_times(problem, adaptive.make_march(problem, rule, rtol, atol, options), kept)
        except SolveError as error:
            raise explained(error, problem) from None
    return scipy_solver.at_times(problem, rtol, atol, options)


def states_until_event(
    problem: Problem,
    method: Method,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any],
    happening: Callable[[Tensor, Tensor], Tensor],
    kept: Keeper | None = None,
) -> tuple[float, Tensor]:
    """The time of an event, and the states at the first time and then, as one tensor; ``kept`` takes the steps."""
    accuracy = event.least(adaptive.make_tolerance(problem, rtol, atol, None).atol)
    steps: Iterator[StepLike]
    if isinstance(method, GridMethod):
        integrator = method.make(**method.chosen({**options, "rtol": rtol, "atol": atol}))
        steps = event.grid_steps(problem, grid.make_march(problem, integrator, options), options)
    elif isinstance(method, AdaptiveMethod):
        rule = method.make(**method.chosen(options))
        steps = adaptive.steps(problem, adaptive.make_march(problem, rule, rtol, atol, options))
    else:
        raise ConfigurationError(f"{method.name} finds no events; use another method")
    happened = Event(problem, happening, accuracy)
    try:
        found = walk(
            replace(problem, t=problem.t[:1], times=problem.times[:1]), steps, happened, beyond=True, kept=kept
        )
    except SolveError as error:
        raise explained(error, problem) from None
    if found.event_time is None or found.event_state is None:
        raise SolverError("the steps ended before an event happened")
    return found.event_time, torch.stack([problem.y0, found.event_state])


def odeint_event(
    func: Func,
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> Any:
    """Solve up to an event, with gradients through the time at which it happens.

    With g(t, y(t)) the event's function and t* its time, the implicit function theorem gives

        dt* = -dg / (dg/dt + dg/dy f),    dy(t*) = dy + f dt*

    where dg and dy on the right are taken at a fixed time; parameters of ``event_fn`` get their gradient, too.

    Args:
        func, y0: as in :func:`odeint`.
        t0: the first time, a tensor with one element.
        event_fn: (t, y) -> tensor; the event is the first zero of one of its entries.
        reverse_time: let time run back.
        odeint_interface: :func:`odeint`, or :func:`odeint_adjoint` for the adjoint method.
        kwargs: handed on to it.

    Returns:
        The time of the event, and the states at ``t0`` and then, shape (2, *shape), or a tuple of such.

    >>> time, states = odeint_event(lambda t, y: torch.ones_like(y), torch.tensor([0.0]), torch.tensor(0.0),
    ...                             event_fn=lambda t, y: y - 2)
    >>> round(time.item(), 4)
    2.0
    """
    begin = t0.reshape(-1)
    t = torch.cat([begin, begin.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, states = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    problem = make_problem(func, y0, t)
    layout = problem.layout
    last = layout.flat(states[-1] if isinstance(states, Tensor) else tuple(each[-1] for each in states))
    event_t, last = rerouted(problem, event.combined(event_fn, problem), event_t, last)
    if isinstance(states, Tensor):
        return event_t, torch.cat([states[:-1], last[None]])
    ends = layout.unflat(last)
    return event_t, tuple(torch.cat([each[:-1], end[None]]) for each, end in zip(states, ends, strict=True))


def rerouted(
    problem: Problem, happening: Callable[[Tensor, Tensor], Tensor], event_t: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """The time and state of an event with the gradients of the implicit function theorem; the values stay."""
    time = event_t.detach()
    at = time.to(problem.clock.dtype)
    with torch.enable_grad():
        t_leaf, y_leaf = at.clone().requires_grad_(), y.detach().clone().requires_grad_()
        value = happening(t_leaf, y_leaf)
        if not value.requires_grad:  # an event that happens whatever time and state are
            return time, y
        by_t, by_y = torch.autograd.grad(value, (t_leaf, y_leaf), allow_unused=True)
        slope = problem.field(at, y.detach()).detach()
    rate = (0 if by_t is None else by_t) + (0 if by_y is None else (by_y.conj() * slope).real.sum())
    # Zero in value; its gradient is that of the event's function at a fixed time.
    change = happening(at, y)
    moved = (change.detach() - change) / rate
    return time + moved.to(time.dtype), y + slope * moved.to(y.dtype)


def odeint_dense(
    func: Func,
    y0: Tensor,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Tensor | float], Tensor]:
    """Solve from t0 to t1 and return the solution as a function of time.

    Args:
        func, rtol, atol, options: as in :func:`odeint`.
        y0: one tensor.
        t0, t1: first and last time.
        method: an adaptive one.

    Returns:
        A function from times of any shape, between t0 and t1, to states of shape (*times, *shape).

    >>> y = odeint_dense(lambda t, y: -y, torch.tensor([1.0]), 0.0, 2.0)
    >>> y(torch.tensor([0.0, 1.0]))
    tensor([[1.0000],
            [0.3679]])
    """
    chosen = as_method(method)
    if not isinstance(chosen, AdaptiveMethod):
        names = ", ".join(name for name, each in METHODS.items() if isinstance(each, AdaptiveMethod))
        raise ArgumentError(f"odeint_dense needs an adaptive method ({names}), got {chosen.name!r}")
    if not isinstance(y0, Tensor):
        raise ArgumentError(f"odeint_dense takes one tensor as y0, got {type(y0).__name__}")
    first = t0 if isinstance(t0, Tensor) else torch.tensor(t0, dtype=torch.float64)
    last = t1.detach() if isinstance(t1, Tensor) else torch.tensor(t1, dtype=torch.float64)
    t = torch.stack([first.reshape(()), last.reshape(()).to(first)]).to(y0.device)
    problem = make_problem(func, y0, t)
    checked = check_options(chosen, options)
    march = adaptive.make_march(problem, chosen.make(**chosen.chosen(checked)), rtol, atol, checked)
    taken: list[Step] = []
    try:
        walk(problem, adaptive.steps(problem, march), kept=taken)
    except SolveError as error:
        raise explained(error, problem) from None
    return Dense(taken, problem.times[1])
