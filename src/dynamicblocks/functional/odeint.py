"""Initial value problems, with torchdiffeq's signatures and meaning."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ConfigurationError, warn_caller
from dynamicblocks.functional.arguments import (
    BACKPROP,
    Func,
    State,
    Tol,
    check_torchdiffeq_state,
    differentiated,
    run,
    scheme_of,
)
from dynamicblocks.functional.traced import untraced_but_for_grids
from dynamicblocks.gradients import Backprop, Gradient, as_gradient
from dynamicblocks.gradients.graph import OutsideTransforms
from dynamicblocks.integrators import METHODS, AdaptiveMethod, Integrator
from dynamicblocks.solving.batched_solve import SampleProblem
from dynamicblocks.solving.compiled_solve import solve_compiled
from dynamicblocks.solving.dense import Dense
from dynamicblocks.solving.events import EventFunction, check_event_times, event_found, rerouted
from dynamicblocks.solving.make_course import make_course
from dynamicblocks.solving.options import step_limit
from dynamicblocks.solving.outputs import StepLike
from dynamicblocks.solving.problem import make_problem
from dynamicblocks.tracing import untraced


@untraced_but_for_grids
def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: Integrator | str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    gradient: Gradient | str = "backprop",
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
        method: a name, see ``dynamicblocks methods``; ``"dopri5"`` by default. Or an
            :class:`~dynamicblocks.Integrator`, also one of your own, an :class:`~dynamicblocks.Adaptive`, or a string
            with arguments as a block takes it, such as ``"dopri5(rtol=1e-4)"``: these bring tolerances and options of
            their own.
        options: of the method.

            Adaptive methods: ``first_step``, ``min_step``, ``max_step``, ``max_num_steps`` (between two times of
            output, 1,000,000; up to an event 20,000), ``safety`` (0.9), ``ifactor`` (10) and ``dfactor`` (0.2), the
            most by which a step may grow and shrink, ``pcoeff``, ``icoeff``, ``dcoeff`` (0, 1, 0: the PID controller's
            coefficients), ``step_t`` and ``jump_t``, tensors of times that steps must meet, the latter where func
            jumps, ``norm`` of the state (the root mean square; of a tuple the largest of them), ``dtype`` (accepted;
            time is counted in double precision), ``compile``: run the loop compiled, several attempts in one call. The
            first solve then takes long; callbacks are not called, and times get no gradient.

            Methods on a grid: ``step_size``, or ``grid_constructor`` (func, y0, t) -> grid; by default the grid is
            ``t``. ``max_num_steps``: the most that these two may make (1,000,000). ``interp``: "linear" or "cubic",
            between the grid's points. ``perturb``, also called ``enforce_openset``: see func at the ends of a step from
            inside it. ``compile``: run explicit steps compiled, ten in one call, as samplers of many small steps want;
            the first solve then takes some seconds.

            ``scipy_solver``: ``solver``, a name of SciPy's, ``min_step``, ``max_step``, and ``max_num_steps``, there
            the most evaluations of func between two times of output (1,000,000).
        event_fn: (t, y) -> tensor; the solve ends when one of its entries becomes zero. Then ``t`` has two times: a
            begin, and another that gives the direction.
        gradient: how the backward pass is made, as in :func:`~dynamicblocks.solve`.

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
    scheme = scheme_of(method, rtol, atol, options)
    check_torchdiffeq_state(y0)
    mode = BACKPROP if gradient == "backprop" else as_gradient(gradient)
    with OutsideTransforms():
        problem = make_problem(func, y0, t, tensors=() if mode is BACKPROP else differentiated(func))
        if scheme.options.get("compile"):
            _check_compiled(func, event_fn, mode)
            if isinstance(scheme.method, AdaptiveMethod):
                steps = step_limit(scheme.options)
                return solve_compiled(SampleProblem(func, y0, t, (), scheme, steps, func, compile=True)).y
        if event_fn is None:
            found = run(mode, make_course(scheme, problem))
            return problem.nesting.nested(found.stacked(), (len(problem.times),))
        check_event_times(problem)
        found = run(mode, make_course(scheme, problem, event=EventFunction(event_fn, problem), beyond=True))
        time, state = event_found(found)
        return problem.t.new_tensor(time), problem.nesting.nested(torch.stack([problem.y0, state]), (2,))


def _check_compiled(func: Func, event_fn: Callable[[Tensor, Any], Tensor] | None, mode: Gradient) -> None:
    """Raise a ConfigurationError for what does not go with the option compile; warn of what is not called."""
    if event_fn is not None:
        raise ConfigurationError("an event and the option compile do not go together in odeint; use solve")
    if not isinstance(mode, Backprop):
        raise ConfigurationError(f"a compiled loop makes its gradients by 'backprop', got {mode!r}; use solve")
    if any(hasattr(func, f"callback_{name}") for name in ("step", "accept_step", "reject_step")):
        warn_caller("a compiled loop does not call the callbacks of func")


@untraced
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
        event_fn: (t, y) -> tensor; the event is the first zero of one of its entries, at ``t0`` if one is zero there.
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
    nesting = problem.nesting
    last = nesting.flat(states[-1] if isinstance(states, Tensor) else tuple(each[-1] for each in states))
    with OutsideTransforms():
        event_t, last = rerouted(problem, EventFunction(event_fn, problem), event_t, last)
    ends = nesting.nested(last)
    if isinstance(states, Tensor):
        return event_t, torch.cat([states[:-1], ends[None]])
    return event_t, tuple(torch.cat([each[:-1], end[None]]) for each, end in zip(states, ends, strict=True))


@untraced
def odeint_dense(
    func: Func,
    y0: Tensor,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: Integrator | str | None = None,
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
    if not isinstance(y0, Tensor):
        raise ArgumentError(f"odeint_dense takes one tensor as y0, got {type(y0).__name__}")
    scheme = scheme_of(method, rtol, atol, options)
    if not isinstance(scheme.method, AdaptiveMethod):
        names = ", ".join(name for name, each in METHODS.items() if isinstance(each, AdaptiveMethod))
        raise ArgumentError(f"odeint_dense needs an adaptive method ({names}), got {scheme.method.name!r}")
    first = t0 if isinstance(t0, Tensor) else torch.tensor(t0, dtype=torch.float64)
    last = t1.detach() if isinstance(t1, Tensor) else torch.tensor(t1, dtype=torch.float64)
    taken: list[StepLike] = []
    with OutsideTransforms():
        problem = make_problem(func, y0, torch.stack([first.reshape(()), last.reshape(()).to(first)]).to(y0.device))
        run(BACKPROP, make_course(scheme, problem, kept=taken))
    dense = Dense(taken, problem.times[1])
    return dense if problem.y0.dtype == y0.dtype else lambda t: dense(t).to(y0.dtype)
