"""A right-hand side f(t, y) as the adaptive loop calls it, and the times that it is given."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.parts import FIELD, called, parts_of
from dynamicblocks.layers.protocol import takes_time

Func = Callable[[Tensor, Tensor], Tensor]

_NUMPY = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}


class Clock:
    """Times as a field expects them: tensors without dimensions, of the state's real precision, on its device.

    The loop counts in Python's floats, which cost nothing; gradients with respect to the first time, with which all
    steps move, flow through ``shift``, a zero.

    Args:
        like: a state.
        origin: the first time.
    """

    def __init__(self, like: Tensor, origin: Tensor) -> None:
        self.dtype = like.abs().dtype if like.is_complex() else like.dtype
        self.device = like.device
        self.shift = (origin - origin.detach()).to(self.device, self.dtype) if origin.requires_grad else None

    def moved(self, like: Tensor, origin: Tensor) -> "Clock":
        """The clock of the same kind for another state and first time."""
        return type(self)(like, origin)

    def tensors(self, times: Sequence[float], *, shifted: bool = True) -> Sequence[Tensor]:
        """Each time as a tensor, by default moving with the first one."""
        made = torch.tensor(times, dtype=self.dtype, device=self.device)
        return (made if self.shift is None or not shifted else made + self.shift).unbind()

    def before(self, time: float, direction: float) -> float:
        """The last representable time before ``time``, for fields that jump there."""
        return self._next(time, -direction)

    def after(self, time: float, direction: float) -> float:
        """The first representable time after ``time``."""
        return self._next(time, direction)

    def _next(self, time: float, direction: float) -> float:
        towards = math.copysign(math.inf, direction)
        kind = _NUMPY.get(self.dtype)
        if kind is None or kind is np.float64:
            return math.nextafter(time, towards)
        return float(np.nextafter(np.asarray(time, kind), np.asarray(towards, kind)))


class HostClock(Clock):
    """A clock whose times stay on the CPU in double precision, for fields that look up where between knots they are.

    Reading them costs no synchronisation with a device, and the last time before a knot is before it in any precision
    of the state.
    """

    def __init__(self, like: Tensor, origin: Tensor) -> None:
        super().__init__(like, origin)
        self.dtype, self.device = torch.float64, torch.device("cpu")


@dataclass
class Tally:
    """What a solve has cost so far: evaluations of the field, steps accepted and rejected, seconds in the field."""

    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: float = 0.0


class Field:
    """A right-hand side f(t, y) over one tensor, whose evaluations are counted and whose first value is checked.

    Args:
        func: the function.
        timed: whether the seconds that it takes are counted, too.
    """

    def __init__(self, func: Func, *, timed: bool = False) -> None:
        self.timed = timed
        self.func = self._timed(func) if timed else func
        self.parts: Mapping[str, Callable[..., Tensor]] = {}
        self.tally = Tally()

    def over(self, func: Func, parts: Mapping[str, Callable[..., Tensor]]) -> "Field":
        """The field of another function, counted as this one."""
        other = copy.copy(self)
        other.func, other.parts = other._timed(func) if self.timed else func, parts
        return other

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        value = self.func(t, y)
        tally = self.tally
        if tally.evaluations == 0:
            self._check(value, t, y)
        tally.evaluations += 1
        # Under autocast, or with weights of another precision, slopes are narrower or wider than the state.
        return value if value.dtype == y.dtype else value.to(y.dtype)

    def part(self, name: str, t: Tensor, y: Tensor, *extra: float | Tensor) -> Tensor:
        """A named part at a time."""
        if name == FIELD and not extra:
            return self(t, y)
        value = self.parts[name](t, y, *extra)
        self.tally.evaluations += 1
        return value if value.dtype == y.dtype else value.to(y.dtype)

    def _timed(self, func: Func) -> Func:
        def timed(t: Tensor, y: Tensor) -> Tensor:
            start = time.perf_counter()
            slope = func(t, y)
            self.tally.seconds += time.perf_counter() - start
            return slope

        return timed

    @staticmethod
    def _check(value: object, t: Tensor, y: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise ConfigurationError(f"func must return a tensor such as the state, got {type(value).__name__}")
        if value.shape != y.shape:
            of_time = f"; t has shape {tuple(t.shape)}" if t.ndim else ""
            raise ConfigurationError(
                f"func must return the slope of every entry of the state: shape {tuple(y.shape)}, got "
                f"{tuple(value.shape)}{of_time}"
            )
        if value.device != y.device:
            raise ConfigurationError(f"func must return a tensor on {y.device}, where the state is, got {value.device}")
        if value.is_complex() and not y.is_complex():
            raise ConfigurationError(f"func returned complex numbers for a state of {y.dtype}")


def function_parts(func: Any, args: tuple[Any, ...]) -> dict[str, Callable[..., Tensor]]:
    """The parts that a caller's function of (t, y, *args) declares, as functions of (t, y, *extra)."""

    def with_args(part: Callable[..., Tensor]) -> Callable[..., Tensor]:
        timed = takes_time(part, part=True)
        return lambda t, y, *extra: part(*((t, y) if timed else (y,)), *extra, *args)

    return {name: with_args(called(func, method)) for name, method in parts_of(func).items() if name != FIELD}
