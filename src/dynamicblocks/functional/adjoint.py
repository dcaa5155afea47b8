"""The continuous adjoint method: gradients by solving a second differential equation back in time."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import event
from dynamicblocks.functional.lost import lost_tensors
from dynamicblocks.functional.methods import Method, as_method, check_options
from dynamicblocks.functional.norms import flat_norm, mixed_norm
from dynamicblocks.functional.odeint import Func, Tol, states_at_times, states_until_event
from dynamicblocks.functional.problem import Problem, make_problem
from dynamicblocks.functional.state import Layout, State
from dynamicblocks.marching import Clock, Field

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass(frozen=True)
class AdjointTask:
    """What both passes need and no gradient flows to.

    Args:
        problem: what is solved; its initial state and times get gradients.
        y0: the initial state as the caller gave it.
        method, tolerances, options: of the forward pass.
        backward_method, backward_tolerances, backward_options: of the backward pass; its norm is that of the tuple
            (dL/dt, y, a, *dL/dtheta).
        happening: the function of an event that ends the solve.
        lost: called with tensors that would lose their gradients; None not to look for them.
    """

    problem: Problem
    y0: State
    method: Method
    tolerances: tuple[Any, Any]
    options: Mapping[str, Any]
    backward_method: Method
    backward_tolerances: tuple[Any, Any]
    backward_options: Mapping[str, Any]
    happening: Callable[[Tensor, Tensor], Tensor] | None
    lost: Callable[[list[Tensor]], None] | None


def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Tol | None = None,
    adjoint_atol: Tol | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As :func:`odeint`, with gradients by the adjoint method, in memory that does not grow with the steps.

    The backward pass solves, from the last time to the first,

        da/dt = -a^T df/dy,    dL/dtheta = int a^T df/dtheta dt,    dL/dt_i = +-a(t_i) f(t_i)

    beside y itself; a = dL/dy is raised by the gradient of each output on the way. These are the gradients of the
    exact solution: they agree with those of :func:`odeint` to the tolerances only (Chen et al. 2018,
    arXiv:1806.07366).

    Args:
        func, y0, t, rtol, atol, method, options, event_fn: as in :func:`odeint`; ``func`` is an ``nn.Module``, unless
            ``adjoint_params`` is given. It may carry ``callback_step_adjoint`` and so on.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward pass; by default as forward, but
            for the norm, which is the largest of those of y, a, the gradients of the times and of the parameters.
            ``norm="seminorm"`` leaves the parameters out, which saves steps (Kidger et al. 2021, arXiv:2009.09457). A
            function is given the tuple of these tensors.
        adjoint_params: the tensors to differentiate for, those that need no gradient left out; by default the
            parameters of ``func``.

    Raises:
        ConfigurationError: parameters that are not known; combinations that cannot be.

    >>> rate = torch.tensor([2.0], requires_grad=True)
    >>> t = torch.tensor([0.0, 1.0])
    >>> y = odeint_adjoint(lambda t, y: -rate * y, torch.ones(1), t, adjoint_params=(rate,))
    >>> y[-1].backward()
    >>> rate.grad  # -exp(-2)
    tensor([-0.1353])
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ConfigurationError(
            "func must be an instance of nn.Module to specify the adjoint parameters; alternatively they can be "
            "specified explicitly via the `adjoint_params` argument. If there are no parameters then it is allowable "
            "to set `adjoint_params=()`."
        )
    if adjoint_method is not None and adjoint_method != method and options is not None and adjoint_options is None:
        raise ConfigurationError(
            "If `adjoint_method != method` then we cannot infer `adjoint_options` from `options`. So as `options` has "
            "been passed then `adjoint_options` must be passed as well."
        )
    chosen = as_method(method)
    backward_method = chosen if adjoint_method is None else as_method(adjoint_method)
    collected = isinstance(func, nn.Module) and adjoint_params is None
    given = parameters_of(func) if adjoint_params is None else list(adjoint_params)  # type: ignore[arg-type]
    params = [each for each in given if each.requires_grad]
    forward_options = check_options(chosen, options)
    if forward_options.pop("compile", False):
        raise ConfigurationError(
            "the adjoint method does not run compiled; use odeint, or leave the option compile out"
        )
    if adjoint_options is None:
        backward_options = {name: value for name, value in forward_options.items() if name != "norm"}
    else:
        backward_options = check_options(backward_method, adjoint_options)
        if callable(backward_options.get("norm")) and len(params) < len(given):
            warnings.warn(
                "parameters that need no gradient are left out of the adjoint pass, and of what its norm is given",
                stacklevel=2,
            )
    problem = make_problem(func, y0, t)
    backward_options["norm"] = adjoint_norm(backward_options.get("norm"), forward_options.get("norm"), problem.layout)
    if event_fn is not None:
        event.check_event_times(problem)
    task = AdjointTask(
        problem=problem,
        y0=y0,
        method=chosen,
        tolerances=(rtol, atol),
        options=forward_options,
        backward_method=backward_method,
        backward_tolerances=(
            rtol if adjoint_rtol is None else adjoint_rtol,
            atol if adjoint_atol is None else adjoint_atol,
        ),
        backward_options=backward_options,
        happening=None if event_fn is None else event.combined(event_fn, problem),
        lost=_warn_of_lost if collected else None,
    )
    event_t, states = adjoint_states(task, params)
    found = problem.layout.unflat(states, (len(problem.times),))
    return found if event_fn is None else (event_t, found)


def adjoint_states(task: AdjointTask, params: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    """The time of the event, if there is one, and the states at the times, with gradients by the adjoint method."""
    return _Adjoint.apply(task, task.problem.y0, task.problem.t, *params)  # type: ignore[no-untyped-call]


def parameters_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a module; in a replica of DataParallel they are plain attributes."""
    if not getattr(module, "_is_replica", False):
        return list(module.parameters())
    return [
        value
        for each in module.modules()
        for value in vars(each).values()
        if isinstance(value, Tensor) and value.requires_grad
    ]


def adjoint_norm(
    norm: Callable[[Any], Any] | str | None, state_norm: Callable[[Any], Any] | None, layout: Layout
) -> Callable[[tuple[Tensor, ...]], Any]:
    """The norm of the adjoint's state (dL/dt, y, a, *dL/dtheta), in which y and a are one tensor each."""
    of_state = flat_norm(state_norm, layout)
    if norm is None or norm == "seminorm":
        with_params = norm is None

        def usual(state: tuple[Tensor, ...]) -> Tensor:
            t, y, a, *params = state
            parts = [t.abs(), of_state(y), of_state(a), *([mixed_norm(tuple(params))] if with_params else [])]
            # One number to be read from the device.
            return torch.stack([torch.as_tensor(part, device=t.device).real.to(t.real.dtype) for part in parts]).max()

        return usual
    if not callable(norm):
        raise ConfigurationError(f"the norm of the adjoint must be a function or 'seminorm', got {norm!r}")
    if layout.shapes is None:
        return norm

    def unpacked(state: tuple[Tensor, ...]) -> Any:
        t, y, a, *params = state
        return norm((t, *layout.unflat(y), *layout.unflat(a), *params))

    return unpacked


class _Adjoint(torch.autograd.Function):
    """States at the times, and their gradients by the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, task: AdjointTask, y0: Tensor, t: Tensor, *params: Tensor) -> tuple[Tensor | None, Tensor]:
        problem = replace(task.problem, y0=y0.detach(), t=t.detach(), clock=Clock(y0.detach(), t.detach()[0]))
        ctx.task, ctx.of_times = task, t.requires_grad
        ctx.autocast = (torch.is_autocast_enabled(y0.device.type), torch.get_autocast_dtype(y0.device.type))
        event_t = None
        if task.happening is None:
            states = states_at_times(problem, task.method, task.y0, *task.tolerances, task.options)
            times = t.detach()
        else:
            time, states = states_until_event(problem, task.method, *task.tolerances, task.options, task.happening)
            event_t = t.new_tensor(time)
            times = torch.stack([t.detach()[0], event_t])
            ctx.mark_non_differentiable(event_t)
        ctx.save_for_backward(times, states, *params)
        return event_t, states

    @staticmethod
    def backward(ctx: Any, _event: Tensor | None, by_states: Tensor) -> tuple[Tensor | None, ...]:
        task: AdjointTask = ctx.task
        times, states, *params = ctx.saved_tensors
        enabled, kind = ctx.autocast
        with torch.no_grad(), torch.autocast(states.device.type, dtype=kind, enabled=enabled):
            by_y0, by_t, by_params = _backward(task, times, states, by_states, params, of_times=ctx.of_times)
        if task.happening is not None and by_t is not None:
            # The time of the event is no free variable; odeint_event gives it its gradient.
            by_t = torch.cat([by_t[:1], torch.zeros_like(by_t[1:])])
        found = (by_y0, by_t, *by_params)
        if torch.is_grad_enabled():
            handle = by_y0.new_zeros((), requires_grad=True)
            found = _OnceOnly.apply(handle, *found)  # type: ignore[no-untyped-call]
        return None, *found


class _OnceOnly(torch.autograd.Function):
    """Gradients that cannot be differentiated again, and say so rather than count as constants."""

    @staticmethod
    def forward(ctx: Any, _handle: Tensor, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if value is None else value.clone() for value in values)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[None, ...]:
        raise ConfigurationError(
            "the adjoint method has no second derivatives; use odeint, whose steps can be differentiated twice"
        )


def _backward(
    task: AdjointTask, times: Tensor, states: Tensor, by_states: Tensor, params: Sequence[Tensor], *, of_times: bool
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """The gradients of y0, of the times if wanted, and of the parameters."""
    field = task.problem.field
    clock = Clock(states[0], times[0])
    system = _AdjointField(task.problem, params, of_times=of_times, lost=task.lost)
    by_t = torch.zeros_like(times) if of_times else None
    moving = times.new_zeros((), dtype=clock.dtype)
    a = by_states[-1]
    sums = [torch.zeros_like(param) for param in params]
    numbers = times.tolist()
    for n in range(len(numbers) - 1, 0, -1):
        if by_t is not None:
            (time,) = clock.tensors([numbers[n]])
            change = (field(time, states[n]).conj() * by_states[n]).real.sum().to(clock.dtype)
            moving = moving - change
            by_t[n] = change
        state = (moving, states[n], a, *sums)
        layout = Layout.of(state)
        flat = layout.flat(state)
        problem = Problem(
            system,
            Field(layout.func(system)),
            Clock(flat, times[n]),
            flat,
            times[n - 1 : n + 1].flip(0),
            [numbers[n], numbers[n - 1]],
            layout,
        )
        solved = states_at_times(problem, task.backward_method, state, *task.backward_tolerances, task.backward_options)
        moving, _, a, *sums = layout.unflat(solved[-1])
        # y itself goes on from the forward pass; what came back from the far end of the interval is less exact.
        moving, a = moving.real, a + by_states[n - 1]
    if by_t is not None:
        by_t[0] = moving
    return a, by_t, [total if param.is_complex() else total.real for total, param in zip(sums, params, strict=True)]


class _AdjointField:
    """d/dt of (dL/dt, y, a, *dL/dtheta) by one evaluation of the field and one backward pass through it."""

    def __init__(
        self,
        problem: Problem,
        params: Sequence[Tensor],
        *,
        of_times: bool,
        lost: Callable[[list[Tensor]], None] | None,
    ) -> None:
        self.field, self.params, self.of_times = problem.field, params, of_times
        self.lost = lost
        for name in CALLBACKS:
            callback = getattr(problem.func, f"{name}_adjoint", None)
            if callback is not None:
                setattr(self, name, callback)

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        moving, y, a, *_ = state
        with torch.enable_grad():
            # Fresh views: a tensor that is its own input would be differentiated as one.
            y = y.detach().requires_grad_()
            time = t.detach().requires_grad_(self.of_times)
            slope = self.field(time, y)
            if not slope.requires_grad:
                return (torch.zeros_like(moving), slope, *(torch.zeros_like(each) for each in state[2:]))
            inputs = [y, *([time] if self.of_times else []), *self.params]
            if self.lost is not None:
                # A view has a graph, even if the slope is a parameter itself.
                found_lost = lost_tensors(slope.view_as(slope), inputs)
                if found_lost:
                    self.lost(found_lost)
                self.lost = None  # once is enough
            # The graph may go on into the caller's, which is needed again.
            with apart_from_each_other(self.params):
                found = torch.autograd.grad(slope, inputs, -a, retain_graph=True, allow_unused=True)
        by_y = torch.zeros_like(y) if found[0] is None else found[0]
        by_t = found[1] if self.of_times and found[1] is not None else torch.zeros_like(moving)
        rest = found[2:] if self.of_times else found[1:]
        by_params = [torch.zeros_like(p) if g is None else g for g, p in zip(rest, self.params, strict=True)]
        return (by_t.to(moving.dtype), slope.detach(), by_y, *by_params)


@contextlib.contextmanager
def apart_from_each_other(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Let gradients of inputs not flow on into those of others that they were made of: the caller's graph does that."""

    def stopped(place: int, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(
            torch.zeros_like(each) if n == place and each is not None else each for n, each in enumerate(gradients)
        )

    handles = [
        each.grad_fn.register_prehook(partial(stopped, each.output_nr)) for each in inputs if each.grad_fn is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _warn_of_lost(lost: list[Tensor]) -> None:
    warnings.warn(f"{describe_lost(lost)}: they get none. Hand them over in adjoint_params", stacklevel=2)


def describe_lost(lost: list[Tensor]) -> str:
    """What would lose its gradient, in words."""
    shapes = ", ".join(str(tuple(each.shape)) for each in lost)
    return f"func uses {len(lost)} tensors that require a gradient and are no parameters of it (shapes {shapes})"
