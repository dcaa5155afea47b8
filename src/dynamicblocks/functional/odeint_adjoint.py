"""torchdiffeq's odeint_adjoint."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, warn_caller
from dynamicblocks.functional.arguments import (
    ATOL,
    RTOL,
    Func,
    State,
    Tol,
    check_torchdiffeq_state,
    parameters_of,
    run,
    scheme_of,
)
from dynamicblocks.gradients.adjoint import Adjoint
from dynamicblocks.gradients.adjoint_compiled import CompiledAdjoint, compiled_adjoint, with_norm
from dynamicblocks.gradients.graph import OutsideTransforms, described
from dynamicblocks.integrators import Integrator
from dynamicblocks.solving.events import EventFunction, check_event_times, event_found, rerouted
from dynamicblocks.solving.make_course import make_course
from dynamicblocks.solving.options import step_limit
from dynamicblocks.solving.problem import make_problem
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.tracing import untraced


@untraced
def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Tol = 1e-7,
    atol: Tol = 1e-9,
    method: Integrator | str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Tol | None = None,
    adjoint_atol: Tol | None = None,
    adjoint_method: Integrator | str | None = None,
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
            ``adjoint_params`` is given. With ``event_fn`` the time has its gradient, and the states are those of a
            fixed time, which :func:`odeint_event` completes. ``func`` may carry ``callback_step_adjoint`` and so on.
        adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options: of the backward pass; by default as forward, but
            for the norm, which is the largest of those of y, a, the gradients of the times and of the parameters.
            ``norm="seminorm"`` leaves the parameters out, which saves steps (Kidger et al. 2021, arXiv:2009.09457). A
            function is given the tuple of these tensors. ``interpolant=True`` keeps the steps of the forward pass, two
            states and two slopes each, and reads y from them: where y cannot be solved for back in time, as after
            fast decay, the gradient needs it. Adaptive methods; a norm is then given no y.
        adjoint_params: the tensors to differentiate for, those that need no gradient left out; by default the
            parameters of ``func``.

    Raises:
        ConfigurationError: parameters that are not known; combinations that cannot be.

    >>> import torch
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
    forward = scheme_of(method, rtol, atol, options)
    collected = isinstance(func, nn.Module) and adjoint_params is None
    given = parameters_of(func) if adjoint_params is None else list(adjoint_params)
    params = [each for each in given if each.requires_grad]
    interpolant = bool((adjoint_options or {}).get("interpolant", False))
    own = None
    if adjoint_options is not None:
        asked = {name: value for name, value in adjoint_options.items() if name != "interpolant"}
        own = dict(scheme_of(adjoint_method or method, RTOL, ATOL, asked).options)
        if callable(own.get("norm")) and len(params) < len(given):
            warn_caller(
                "parameters that need no gradient are left out of the adjoint pass, and of what its norm is given"
            )
    mode = Adjoint(
        adjoint_rtol, adjoint_atol, adjoint_method, own, interpolant, _warn_of_unlisted if collected else None
    )
    check_torchdiffeq_state(y0)
    with OutsideTransforms():
        if forward.options.get("compile"):
            return _compiled(func, y0, t, forward, mode, params, event_fn)
        problem = make_problem(func, y0, t, tensors=params)
        if event_fn is None:
            found = run(mode, make_course(forward, problem))
            return problem.nesting.nested(found.stacked(), (len(problem.times),))
        check_event_times(problem)
        event = EventFunction(event_fn, problem)
        found = run(mode, make_course(forward, problem, event=event, beyond=True))
        time, state = event_found(found)
        # The states are those of a fixed time, as torchdiffeq has them, so that odeint_event can be made of them.
        event_t, _ = rerouted(problem, event, problem.t.new_tensor(time), state)
        return event_t, problem.nesting.nested(torch.stack([found.states[0], state]), (2,))


def _compiled(
    func: Func,
    y0: State,
    t: Tensor,
    forward: Scheme,
    mode: Adjoint,
    params: list[Tensor],
    event_fn: Callable[[Tensor, Any], Tensor] | None,
) -> Any:
    back = mode.backward(forward)
    if event_fn is not None or mode.interpolant or forward.options.get("norm") is not None:
        raise ConfigurationError("a compiled adjoint takes no event_fn, interpolant or norm of the state")
    known = {id(each) for each in func.parameters()} if isinstance(func, nn.Module) else set()
    if any(id(each) not in known for each in params):
        raise ConfigurationError("a compiled adjoint differentiates for the parameters of func, an nn.Module, alone")
    return compiled_adjoint(CompiledAdjoint(func, (), y0, t, forward, with_norm(back), step_limit(forward.options))).y


def _warn_of_unlisted(lost: list[Tensor]) -> None:
    warnings.warn(f"{described(lost)}: they get none. Hand them over in adjoint_params", stacklevel=2)
