"""An initial value problem as the loops need it, checked once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ArgumentTypeError, warn_caller
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers.parts import FIELD, check_parts
from dynamicblocks.layers.stand_in import Places, stand_in
from dynamicblocks.solving.field import Clock, Field, function_parts
from dynamicblocks.solving.holdings import modules_of
from dynamicblocks.solving.misuse import check_order
from dynamicblocks.solving.nesting import Nesting


@dataclass(frozen=True)
class Problem:
    """dy/dt = f(t, y) from the first time on, with outputs at all times.

    Args:
        func: as the caller gave it; it may carry callbacks.
        field: the right-hand side over one tensor.
        clock: makes times for it.
        y0: the initial state as one tensor.
        t: the times as the caller gave them, on the device of the state.
        times: the times as numbers.
        nesting: of the caller's state.
        args: handed on to ``func`` behind time and state.
        tensors: what gets gradients, beside the initial state and the times.
        modules: whose buffers the field may change.
        eps: how exact the numbers are that the field sees, where that is less than those of the one tensor; else 0.
        warns: whether warnings are given of what its numbers cannot show.
    """

    func: Callable[..., Any]
    field: Field
    clock: Clock
    y0: Tensor
    t: Tensor
    times: list[float]
    nesting: Nesting
    args: tuple[Any, ...] = ()
    tensors: Sequence[Tensor] = ()
    modules: Sequence[nn.Module] = ()
    eps: float = 0.0
    warns: bool = False

    @property
    def direction(self) -> float:
        """1 where time runs up, -1 where it runs down."""
        return -1.0 if len(self.times) > 1 and self.times[1] < self.times[0] else 1.0

    def moved(self, y0: Tensor, t: Tensor) -> "Problem":
        """The same from another state and with other times, of the same values."""
        return replace(self, y0=y0, t=t, clock=self.clock.moved(y0, t[0]))

    def apart(self, places: Places) -> "Problem":
        """The same with other buffers, without a change of the modules."""
        if not self.modules:
            return self
        # What has buffers is a module of the caller's, or the layers of a block.
        func: Any = stand_in(self.func, {}, places) if isinstance(self.func, nn.Module) else self.func.apart(places)  # type: ignore[attr-defined]
        parts = function_parts(func, self.args) if self.field.parts else {}
        field = self.field.over(self.nesting.func(func, self.args), {name: parts[name] for name in self.field.parts})
        return replace(self, field=field)

    def declare_parts(self, integrator: Integrator) -> None:
        """Give the field the parts that an integrator reads, or raise an error that names what is missing."""
        read = {part for _, part in integrator.reads} - {FIELD}
        if read:
            parts = function_parts(self.func, self.args) if self.nesting.single else {}
            what = type(self.func).__name__ if self.nesting.single else "a nested state"
            check_parts(sorted(read), {FIELD, *parts}, integrator.name, what)
            self.field.parts = {name: parts[name] for name in read}

    def hook(self, name: str) -> Callable[[float, Tensor, float], object] | None:
        """A callback (t, y, h) that the caller's function carries under that name, for numbers and the one tensor."""
        callback = getattr(self.func, name, None)
        if callback is None:
            return None
        # The precision of the loop's own arithmetic, where the device has it.
        kind = torch.float32 if self.y0.device.type == "mps" else torch.float64

        def call(t: float, y: Tensor, h: float) -> object:
            time, size = torch.tensor([t, h], dtype=kind, device=y.device).unbind()
            # A copy: what a callback does to it is no step.
            return callback(time, self.nesting.nested(y.clone()), size)

        return call


def make_problem(
    func: Callable[..., Any],
    y0: Any,
    t: object,
    args: tuple[Any, ...] = (),
    *,
    tensors: Sequence[Tensor] = (),
    timed: bool = False,
) -> Problem:
    """The problem, or an error that says what is wrong with it."""
    nesting = Nesting.of(y0, 0)
    y = nesting.flat(y0)
    if y is y0:
        # The caller's tensor is neither changed by a solve nor part of its result.
        y = y.clone()
    check_order(func)
    times, numbers = check_times(t)
    if times.device != y.device:
        warn_caller(f"t is not on the same device as y0: it is moved from {times.device} to {y.device}")
        times = times.to(y.device)
    field = Field(nesting.func(func, args), timed=timed, owner=func, seen=nesting.seen)
    modules = (func,) if isinstance(func, nn.Module) else modules_of(func)
    clock = Clock(y, times[0], nesting.time_kind)
    return Problem(func, field, clock, y, times, numbers, nesting, args, tensors, modules, nesting.eps, warns=True)


def check_times(t: object) -> tuple[Tensor, list[float]]:
    """The times, also as numbers, or an error that says what is wrong with them."""
    if not isinstance(t, Tensor):
        raise ArgumentError(f"t must be a torch.Tensor of times, got {type(t).__name__}")
    if not t.is_floating_point():
        raise ArgumentTypeError(f"`t` must be a floating point Tensor but is a {t.type()}")
    if t.is_meta:
        raise ArgumentError("t is on the meta device, which holds no numbers")
    if t.ndim != 1 or len(t) == 0:
        raise ArgumentError(f"t must be one dimensional, with at least one time, got shape {tuple(t.shape)}")
    times: list[float] = t.detach().tolist()
    rising = len(times) < 2 or times[1] > times[0]
    for place, (before, after) in enumerate(pairwise(times)):
        if not (before < after if rising else before > after):
            raise ArgumentError(
                f"t must be strictly increasing or decreasing, but t[{place}] = {before:.9g} is followed by "
                f"t[{place + 1}] = {after:.9g}"
            )
    if not all(map(math.isfinite, times)):
        raise ArgumentError(f"t must be finite, got {times}")
    return t, times
