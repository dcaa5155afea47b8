"""A right-hand side f(t, y) as the adaptive loop calls it, and the times that it is given."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sys import getrefcount
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.layers.lending import FRESH, changed, changed_in_place, shared
from dynamicblocks.layers.parts import FIELD, called, parts_of
from dynamicblocks.layers.protocol import takes_time
from dynamicblocks.solving.misuse import check_slope, explained
from dynamicblocks.transforms import moves

Func = Callable[[Tensor, Tensor], Tensor]

_NUMPY = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}


class Clock:
    """Times as a field expects them: tensors without dimensions, of the state's real precision, on its device.

    The loop counts in Python's floats, which cost nothing; gradients with respect to the first time, with which all
    steps move, flow through ``shift``, a zero.

    Args:
        like: a state.
        origin: the first time.
        dtype: of the times, where the loop's state is wider than that of the field.

    No time lies beyond ``far``, the largest number that both have.
    """

    def __init__(self, like: Tensor, origin: Tensor, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype or (like.abs().dtype if like.is_complex() else like.dtype)
        self.device = like.device
        self.far = min(torch.finfo(self.dtype).max, torch.finfo(origin.dtype).max)
        self.shift = (origin - origin.detach()).to(self.device, self.dtype) if moves(origin) else None

    def moved(self, like: Tensor, origin: Tensor) -> "Clock":
        """The clock of the same kind for another state and first time."""
        return Clock(like, origin, self.dtype)

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
        if kind is None:
            return float(torch.nextafter(torch.tensor(time, dtype=self.dtype), torch.tensor(towards, dtype=self.dtype)))
        if kind is np.float64:
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

    def moved(self, like: Tensor, origin: Tensor) -> "HostClock":
        return HostClock(like, origin)


@dataclass
class Tally:
    """What a solve has cost so far: evaluations of the field, steps accepted and rejected, seconds in the field.

    And how many steps had an equation that was not solved.
    """

    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: float = 0.0
    not_converged: int = 0


class Field:
    """A right-hand side f(t, y) over one tensor, whose evaluations are counted and whose values are checked.

    Steps keep slopes by reference and use a state again, so both must stay what they are whatever ``func`` does. Its
    first evaluation gets copies; where it changes them, or changes are not counted, so do all others. A slope that
    somebody else holds (a buffer that ``func`` writes to again, the state itself) is copied. To find out costs 0.4 us.

    Args:
        func: the function.
        timed: whether the seconds that it takes are counted, too.
        owner: the function as the caller gave it, of which ``func`` was made.
        seen: the type of the state as the caller gave it.
        explains: whether it says what is wrong where the first evaluation fails; blocks say that of their layers.
    """

    def __init__(
        self,
        func: Func,
        *,
        timed: bool = False,
        owner: object = None,
        seen: torch.dtype | None = None,
        explains: bool = True,
    ) -> None:
        self.timed = timed
        self.func = self._timed(func) if timed else func
        self.owner, self.seen = func if owner is None else owner, seen
        self.parts: Mapping[str, Callable[..., Tensor]] = {}
        self.tally = Tally()
        # Whether it was evaluated, whether it leaves alone what it is given, and whether its slopes have memory that
        # is held elsewhere, by no Python object: to ask for that each time would cost as much as all else here.
        self._begun = self._trusted = self._shares = False
        # Called with the first state and slope, if anybody wants to look at them.
        self.watch: Callable[[Tensor, Tensor], None] | None = None
        # Called after the solve, if there is something to say of it.
        self.late: Callable[[], None] | None = None
        # A compiler sees what is changed where, and leaves out copies that nobody needs.
        self._traced = torch.compiler.is_compiling()
        self._explains = explains and not self._traced

    def over(self, func: Func, parts: Mapping[str, Callable[..., Tensor]]) -> "Field":
        """The field of another function, counted as this one."""
        other = copy.copy(self)
        other.func, other.parts = other._timed(func) if self.timed else func, parts
        other._begun = other._trusted = False
        return other

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        if not self._trusted:
            return self._with_copies(t, y)
        before = t._version + y._version
        value = self.func(t, y)
        if t._version + y._version != before:
            raise changed_in_place("func")
        self.tally.evaluations += 1
        try:
            alike = value.dtype == y.dtype and value.shape == y.shape and value.device == y.device
        except AttributeError:
            alike = False
        if not alike:
            return _converted(value, t, y)
        if getrefcount(value) > FRESH or self._shares or (value._base is not None and shared(value)):
            return value.clone()
        return value

    def part(self, name: str, t: Tensor, y: Tensor, *extra: float | Tensor) -> Tensor:
        """A named part at a time."""
        if name == FIELD and not extra:
            return self(t, y)
        value = check_slope(self.parts[name](t.clone(), y.clone(), *extra), t, y).reshape(y.shape)
        self.tally.evaluations += 1
        return value.clone() if value.dtype == y.dtype else value.to(y.dtype)

    def _with_copies(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope, where ``func`` is not known to leave alone what it is given."""
        lent = t.clone(), y.clone()
        self.tally.evaluations += 1
        if self._begun:
            value = check_slope(self.func(*lent), t, y, exact=True)
        else:
            before = -1 if self._traced else changed(*lent)
            value = self._first(*lent)
            self._trusted = before >= 0 and changed(*lent) == before
            self._shares = not self._traced and shared(value)
            if self.watch is not None and before >= 0:
                self.watch(y, value)
        if value.dtype != y.dtype:
            return value.to(y.dtype)
        return value.clone() if self._traced or getrefcount(value) > FRESH or shared(value) else value

    def _first(self, t: Tensor, y: Tensor) -> Tensor:
        """The first slope, or an error that says what is wrong with it."""
        shape = y.shape
        try:
            value = self.func(t, y)
        except Exception as error:
            if not self._explains:
                raise
            found = explained(error, self.func, self.owner, t, y, self.seen or y.dtype)
            if found is error:
                raise
            raise found from error
        check_slope(value, t, y)
        self._begun = True
        if value.shape != shape:
            inner, value = self.func, value.reshape(shape)
            self.func = lambda t, y: check_slope(inner(t, y), t, y).reshape(y.shape)
        return value

    def _timed(self, func: Func) -> Func:
        def timed(t: Tensor, y: Tensor) -> Tensor:
            start = time.perf_counter()
            slope = func(t, y)
            self.tally.seconds += time.perf_counter() - start
            return slope

        return timed


def _converted(value: object, t: Tensor, y: Tensor) -> Tensor:
    """A slope unlike the state, in the state's type; an error where that is not all that is other.

    Under autocast, or with weights of another precision, slopes are narrower or wider than the state.
    """
    return check_slope(value, t, y, exact=True).to(y.dtype)


def unchanging(func: Func) -> Func:
    """A right-hand side for a compiled loop, which sees what ``func`` changes, and leaves out copies that nobody needs.

    Its slopes have shape and type of the state.
    """

    def slope(t: Tensor, y: Tensor) -> Tensor:
        value = check_slope(func(t.clone(), y.clone()), t, y)
        return value.reshape(y.shape).to(y.dtype).clone()

    return slope


def function_parts(func: Any, args: tuple[Any, ...]) -> dict[str, Callable[..., Tensor]]:
    """The parts that a caller's function of (t, y, *args) declares, as functions of (t, y, *extra)."""

    def with_args(part: Callable[..., Tensor]) -> Callable[..., Tensor]:
        timed = takes_time(part, part=True)
        return lambda t, y, *extra: part(*((t, y) if timed else (y,)), *extra, *args)

    return {name: with_args(called(func, method)) for name, method in parts_of(func).items() if name != FIELD}
