"""Norms, functions around a right-hand side, and the checks of what a caller gives."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ConfigurationError, unknown_name
from dynamicblocks.functional.arguments import check_torchdiffeq_state
from dynamicblocks.integrators import Embedded, Norm, Tolerance, rms_norm
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop
from dynamicblocks.solving.callbacks import null_callback as _null_callback
from dynamicblocks.solving.field import Clock, Field
from dynamicblocks.solving.nesting import Nesting, mixed_norm
from dynamicblocks.solving.problem import check_times
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.torchdiffeq._impl.event_handling import combine_event_functions

_all_callback_names = ["callback_step", "callback_accept_step", "callback_reject_step"]
_all_adjoint_callback_names = [f"{name}_adjoint" for name in _all_callback_names]


def _handle_unused_kwargs(solver: object, unused_kwargs: Mapping[str, Any]) -> None:
    """Warn of options that a solver does not know."""
    if unused_kwargs:
        warnings.warn(f"{type(solver).__name__}: unexpected options {', '.join(sorted(unused_kwargs))}", stacklevel=3)


def _rms_norm(tensor: Tensor) -> Tensor:
    """The root of the mean square of all entries."""
    return rms_norm(tensor)


def _linf_norm(tensor: Tensor) -> Tensor:
    """The largest of all entries, without their signs."""
    return tensor.abs().max()


def _zero_norm(tensor: Any) -> float:
    """Zero, whatever is given."""
    return 0.0


def _mixed_norm(tensor_tuple: Sequence[Tensor]) -> Tensor | float:
    """The largest of the root mean squares of several tensors."""
    return mixed_norm(tensor_tuple)


def _decreasing(t: Tensor) -> Tensor:
    """Whether times run back."""
    return (t[1:] < t[:-1]).all()


def _flat_to_shape(tensor: Tensor, length: tuple[int, ...], shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """The parts of one tensor that lie one after the other in its last dimension, with ``length`` in front of each."""
    parts = torch.split(tensor, [shape.numel() for shape in shapes], dim=-1)
    return tuple(part.reshape((*length, *shape)) for part, shape in zip(parts, shapes, strict=True))


def _select_initial_step(
    func: Callable[[Tensor, Tensor], Tensor],
    t0: Tensor,
    y0: Tensor,
    order: int,
    rtol: float | Tensor,
    atol: float | Tensor,
    norm: Norm,
    f0: Tensor | None = None,
) -> Tensor:
    """A first step whose error is about a hundredth of the tolerance, for an estimate of error of this order."""
    method = cast(Embedded, SimpleNamespace(error_order=order + 1))
    loop = AdaptiveLoop(Field(func), Clock(y0, t0.detach()), method, Tolerance(rtol, atol, norm))
    return t0.new_tensor(loop.first_size(float(t0), y0, func(t0, y0) if f0 is None else f0, 1.0))


def _compute_error_ratio(
    error_estimate: Tensor, rtol: float | Tensor, atol: float | Tensor, y0: Tensor, y1: Tensor, norm: Norm
) -> Tensor:
    """The error in units of the tolerance; at most 1 is good enough."""
    return torch.as_tensor(norm(error_estimate / Tolerance(rtol, atol).scale(y0, y1))).abs()


def _optimal_step_size(
    last_step: Tensor, error_ratio: Tensor, safety: Any, ifactor: Any, dfactor: Any, order: int
) -> Tensor:
    """The size of the next step."""
    control, ratio = StepControl(float(safety), float(ifactor), float(dfactor)), float(error_ratio)
    return last_step.new_tensor(control.next_size(float(last_step), [ratio], order, accepted=ratio < 1))


class Perturb(Enum):
    """At which of the nearest times a right-hand side is seen, where it may jump: this one, before, or after."""

    NONE = 0
    PREV = 1
    NEXT = 2


class _PerturbFunc(nn.Module):
    """A right-hand side that takes ``perturb``, and its times in the precision of the state."""

    def __init__(self, base_func: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.base_func = base_func

    def forward(self, t: Tensor, y: Tensor, *, perturb: Perturb = Perturb.NONE) -> Any:
        if not isinstance(perturb, Perturb):
            raise ArgumentError(f"perturb must be one of the enum Perturb, got {perturb!r}")
        t = t.to(y.dtype.to_real())
        if perturb is not Perturb.NONE:
            with torch.no_grad():
                towards = math.inf if perturb is Perturb.NEXT else -math.inf
                change = torch.nextafter(t, torch.full_like(t, towards)) - t
            t = t + change
        return self.base_func(t, y)


class _ReverseFunc(nn.Module):
    """A right-hand side for time that runs the other way."""

    def __init__(self, base_func: Callable[[Tensor, Any], Any], mul: float = 1.0) -> None:
        super().__init__()
        self.base_func, self.mul = base_func, mul

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.mul * self.base_func(-t, y)


class _TupleInputOnlyFunc(nn.Module):
    """A function of a tuple of tensors as one of the tensor in which they lie."""

    def __init__(self, base_func: Callable[[Tensor, Any], Any], shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.base_func, self.shapes = base_func, shapes

    def forward(self, t: Tensor, y: Tensor) -> Any:
        return self.base_func(t, _flat_to_shape(y, (), self.shapes))


class _TupleFunc(_TupleInputOnlyFunc):
    """A right-hand side over a tuple of tensors as one over the tensor in which they lie."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.cat([slope.reshape(-1) for slope in super().forward(t, y)])


def _check_inputs(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: Callable[[Tensor, Any], Tensor] | None,
    SOLVERS: Mapping[str, Any],
) -> tuple[Any, ...]:
    """What a solver class is made from and runs on: one tensor, times that grow, a right-hand side that takes perturb.

    Returns:
        The shapes in a tuple (None for one tensor), func, y0, t, rtol, atol, method, options, event_fn, and whether
        time ran back.
    """
    check_torchdiffeq_state(y0)
    method = "dopri5" if method is None else method
    if method not in SOLVERS:
        raise unknown_name("method", method, SOLVERS)
    t, times = check_times(t)
    if event_fn is not None:
        if len(times) != 2:
            raise ConfigurationError(
                "We require len(t) == 2 when in event handling mode (a begin and a direction), but got "
                f"len(t)={len(t)}."
            )
        event_fn = combine_event_functions(event_fn, t[0], y0)
    nesting, callbacks = Nesting.of(y0, 0), _callbacks(func)
    options = {**(options or {})}
    options["norm"] = nesting.norm(options.get("norm"))
    shapes = None
    if not nesting.single:
        shapes = list(nesting.shapes)
        rtol, atol = nesting.tolerance(rtol, "rtol"), nesting.tolerance(atol, "atol")
        func, callbacks = _TupleFunc(func, shapes), {name: _TupleCallback(c, shapes) for name, c in callbacks.items()}
        event_fn = None if event_fn is None else _TupleInputOnlyFunc(event_fn, shapes)
    y = nesting.flat(y0)
    reverse = len(times) > 1 and times[1] < times[0]
    if reverse:
        t, func = -t, _ReverseFunc(func, mul=-1.0)
        callbacks = {name: _turned(callback) for name, callback in callbacks.items()}
        event_fn = None if event_fn is None else _ReverseFunc(event_fn)
        constructor = options.get("grid_constructor")
        if constructor is not None:
            options["grid_constructor"] = lambda func, y0, t: -constructor(func, y0, -t)
        options.update({name: -options[name] for name in ("step_t", "jump_t") if options.get(name) is not None})
    if t.device != y.device:
        warnings.warn(f"t is not on the same device as y0: it is moved from {t.device} to {y.device}", stacklevel=3)
        t = t.to(y.device)
    func = _PerturbFunc(func)
    for name in _all_callback_names:
        setattr(func, name, callbacks.get(name, _null_callback))
    return shapes, func, y, t, rtol, atol, method, options, event_fn, reverse


Callback = Callable[[Tensor, Any, Tensor], object]


def _callbacks(func: object) -> dict[str, Callback]:
    return {name: getattr(func, name) for name in _all_callback_names if hasattr(func, name)}


def _turned(callback: Callback) -> Callback:
    return lambda t, y, dt: callback(-t, y, dt)


class _TupleCallback:
    """A callback for a tuple of tensors as one for the tensor in which they lie."""

    def __init__(self, callback: Callback, shapes: Sequence[torch.Size]) -> None:
        self.callback, self.shapes = callback, shapes

    def __call__(self, t: Tensor, y: Tensor, dt: Tensor) -> object:
        return self.callback(t, _flat_to_shape(y, (), self.shapes), dt)
