"""torchdiffeq's odeint_adjoint."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import event
from dynamicblocks.functional.adjoint.compiled import CompiledTask, compiled_adjoint, with_norm
from dynamicblocks.functional.adjoint.node import adjoint_states
from dynamicblocks.functional.adjoint.norm import adjoint_norm
from dynamicblocks.functional.adjoint.task import AdjointTask, parameters_of
from dynamicblocks.functional.lost import describe_lost
from dynamicblocks.functional.methods import as_method, check_options
from dynamicblocks.functional.odeint import Func, Tol
from dynamicblocks.functional.problem import make_problem
from dynamicblocks.functional.state import State


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
    chosen = as_method(method)
    backward_method = chosen if adjoint_method is None else as_method(adjoint_method)
    collected = isinstance(func, nn.Module) and adjoint_params is None
    given = parameters_of(func) if adjoint_params is None else list(adjoint_params)  # type: ignore[arg-type]
    params = [each for each in given if each.requires_grad]
    forward_options = check_options(chosen, options)
    compiled = bool(forward_options.pop("compile", False))
    interpolant = bool((adjoint_options or {}).get("interpolant", False))
    if adjoint_options is None:
        backward_options = {name: value for name, value in forward_options.items() if name != "norm"}
    else:
        own = {name: value for name, value in adjoint_options.items() if name != "interpolant"}
        backward_options = check_options(backward_method, own)
        if callable(backward_options.get("norm")) and len(params) < len(given):
            warnings.warn(
                "parameters that need no gradient are left out of the adjoint pass, and of what its norm is given",
                stacklevel=2,
            )
    tolerances = (rtol, atol)
    backward_tolerances = (
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
    )
    if compiled:
        backward_options.pop("compile", None)
        known = {id(each) for each in func.parameters()} if isinstance(func, nn.Module) else set()
        if event_fn is not None or interpolant or forward_options.get("norm") is not None:
            raise ConfigurationError("a compiled adjoint takes no event_fn, interpolant or norm of the state")
        if any(id(each) not in known for each in params):
            raise ConfigurationError(
                "a compiled adjoint differentiates for the parameters of func, an nn.Module, alone"
            )
        backward = (backward_method, backward_tolerances, with_norm(backward_options))
        task = CompiledTask(func, (), y0, t, chosen, tolerances, forward_options, backward)
        return compiled_adjoint(task).y
    problem = make_problem(func, y0, t)
    backward_options["norm"] = adjoint_norm(
        backward_options.get("norm"), forward_options.get("norm"), problem.layout, interpolant=interpolant
    )
    if event_fn is not None:
        event.check_event_times(problem)
    eager = AdjointTask(
        problem=problem,
        y0=y0,
        method=chosen,
        tolerances=tolerances,
        options=forward_options,
        backward_method=backward_method,
        backward_tolerances=backward_tolerances,
        backward_options=backward_options,
        happening=None if event_fn is None else event.combined(event_fn, problem),
        lost=_warn_of_lost if collected else None,
        interpolant=interpolant,
    )
    event_t, states = adjoint_states(eager, params)
    found = problem.layout.unflat(states, (len(problem.times),))
    return found if event_fn is None else (event_t, found)


def _warn_of_lost(lost: list[Tensor]) -> None:
    warnings.warn(f"{describe_lost(lost)}: they get none. Hand them over in adjoint_params", stacklevel=2)
