"""Events of each sample of a batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.errors import SolverError
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.solving.batched_loop import BatchedLoop, Carry, Record
from dynamicblocks.solving.events import moved


@dataclass
class EventWatch:
    """Stops each sample where a function g(t, y) of it changes its sign.

    Args:
        loop: whose samples are watched.
        event: g, from times (B, 1, ..., 1) and states to shape (B, K), each of the K an event.
        accuracy: of the time of an event.
    """

    loop: BatchedLoop
    event: Callable[[Tensor, Tensor], Tensor]
    accuracy: float
    s: Tensor = field(init=False)
    """Times of the events, times the direction; not a number where there was none."""
    lost: Tensor = field(init=False)
    """Samples at which g was not a number."""
    at_begin: Tensor = field(init=False)
    """Samples whose event is at the first time."""
    _signs: Tensor = field(init=False)
    _found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def begin(self, carry: Carry) -> Carry:
        """The samples before their first steps, without those whose event is there."""
        s, y = carry.s, carry.y
        with torch.no_grad():
            value = self.event(self._times(s, y), y)
            self._signs = torch.sign(value)
            self.lost, self.at_begin = value.isnan().any(1), (value == 0).any(1)
            lost, met = torch.stack([self.lost.any(), self.at_begin.any()]).tolist()
        if lost:
            raise SolverError(
                f"event_fn is not a number (NaN) at the first time of the samples {self.lost.nonzero()[:5, 0].tolist()}"
            )
        self.s = torch.where(self.at_begin, s, math.nan)
        if not met:
            return carry
        self._found.append((self.at_begin, y))
        return carry._replace(running=carry.running & ~self.at_begin)

    def value(self, s: Tensor, y: Tensor) -> Tensor:
        """G times its first sign, the least of the entries, shape (B,): positive before the event."""
        return self._signed(self._times(s, y), y)

    def _signed(self, t: Tensor, y: Tensor) -> Tensor:
        return (self.event(t, y) * self._signs).amin(1)

    def _times(self, s: Tensor, y: Tensor) -> Tensor:
        return self.loop.wide(s * self.loop.direction, y)

    def __call__(self, carry: Carry, record: Record) -> tuple[Tensor, Tensor] | None:
        """Which samples are to stop on this attempt, and when: at their event, or where g is not a number."""
        s0, s1 = record.s0[-1], record.s1[-1]
        parts = [part[-1] for part in record.parts]
        with torch.no_grad():
            value = self.value(s1, parts[1])
            happened = carry.running & (s1 > s0) & ~(value > 0)
            if not bool(happened.any()):
                return None
            low, high = torch.zeros_like(s0), torch.ones_like(s0)
            longest = float((s1 - s0)[happened].max())
            for _ in range(max(1, math.ceil(math.log2(max(longest / self.accuracy, 2))))):
                middle = (low + high) / 2
                found = self.value(s0 + middle * (s1 - s0), self._state(parts, middle))
                after = ~(found > 0)
                value = torch.where(after, found, value)
                low, high = torch.where(after, low, middle), torch.where(after, middle, high)
            x = (low + high) / 2
            # Behind an event g may be undefined, not a number; before one it must not be.
            lost = happened & value.isnan()
            when = torch.where(lost, s0, s0 + x * (s1 - s0))
            met = happened & ~lost
            self.s, self.lost = torch.where(met, when, self.s), self.lost | lost
        self._found.append((met, self._state(parts, x)))
        return happened, when

    def _state(self, parts: list[Tensor], x: Tensor) -> Tensor:
        return combine(self.loop.method.weights(self.loop.wide(x, parts[0])), parts)

    def result(self, end: Carry) -> tuple[Tensor, Tensor]:
        """The times and states of the events, with the gradients of the implicit function theorem.

        Where there was none: not a number, and the last state.
        """
        y, loop = end.y, self.loop
        for happened, state in self._found:
            y = torch.where(loop.wide(happened, y), state, y)
        met = torch.isfinite(self.s)
        s = torch.where(met, self.s, end.s)
        at = s * loop.direction

        def signed(t: Tensor, y: Tensor) -> Tensor:
            return self._signed(loop.wide(t, y), y)

        time = torch.where(met, at, math.nan)
        return moved(signed, lambda: loop.at(s, y.detach()), at, time, y, met & ~self.at_begin)
