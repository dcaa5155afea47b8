"""Events of each sample of a batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.solving.batched_loop import BatchedLoop, Carry, Record


@dataclass
class EventWatch:
    """Stops each sample where a function g(t, y) of it changes its sign.

    Args:
        loop: whose samples are watched.
        event: g, from times (B, 1, ..., 1) and states to shape (B,) or (B, 1, ..., 1).
        accuracy: of the time of an event.
    """

    loop: BatchedLoop
    event: Callable[[Tensor, Tensor], Tensor]
    accuracy: float
    signs: Tensor = field(init=False)
    s: Tensor = field(init=False)
    _found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def begin(self, s: Tensor, y: Tensor) -> None:
        """The signs before the first step."""
        self.signs = torch.ones_like(s)
        self.signs = torch.sign(self.value(s, y))
        self.s = torch.full_like(s, math.nan)

    def value(self, s: Tensor, y: Tensor) -> Tensor:
        """G times its first sign, shape (B,): positive before the event."""
        t = self.loop.wide(s * self.loop.direction, y)
        return self.event(t, y).reshape(len(s)) * self.signs

    def __call__(self, carry: Carry, record: Record) -> tuple[Tensor, Tensor] | None:
        """Which samples have met their event on this attempt, and when."""
        s0, s1 = record.s0[-1], record.s1[-1]
        parts = [part[-1] for part in record.parts]
        with torch.no_grad():
            happened = carry.running & (s1 > s0) & (self.value(s1, parts[1]) <= 0)
            if not bool(happened.any()):
                return None
            low, high = torch.zeros_like(s0), torch.ones_like(s0)
            longest = float((s1 - s0)[happened].max())
            for _ in range(max(1, math.ceil(math.log2(max(longest / self.accuracy, 2))))):
                middle = (low + high) / 2
                after = self.value(s0 + middle * (s1 - s0), self._state(parts, middle)) <= 0
                low, high = torch.where(after, low, middle), torch.where(after, middle, high)
            x = (low + high) / 2
            when = s0 + x * (s1 - s0)
            self.s = torch.where(happened, when, self.s)
        self._found.append((happened, self._state(parts, x)))
        return happened, when

    def _state(self, parts: list[Tensor], x: Tensor) -> Tensor:
        return combine(self.loop.method.weights(self.loop.wide(x, parts[0])), parts)

    def result(self, y_end: Tensor) -> tuple[Tensor, Tensor]:
        """The times and states of the events, with the gradients of the implicit function theorem.

        Where there was none: not a number, and the last state.
        """
        y = y_end
        for happened, state in self._found:
            y = torch.where(self.loop.wide(happened, y), state, y)
        met = torch.isfinite(self.s)
        s = torch.where(met, self.s, torch.zeros_like(self.s))
        with torch.enable_grad():
            s_leaf, y_leaf = s.clone().requires_grad_(), y.detach().clone().requires_grad_()
            total = self.value(s_leaf, y_leaf).sum()
            if not total.requires_grad:  # events that happen whatever time and state are
                return torch.where(met, s * self.loop.direction, math.nan), y
            by_s, by_y = torch.autograd.grad(total, (s_leaf, y_leaf), allow_unused=True)
        slope = (self.loop.at(s, y.detach()) * self.loop.wide(self.loop.direction, y)).detach()
        rate = torch.zeros_like(s) if by_s is None else by_s
        if by_y is not None:
            rate = rate + (by_y.conj() * slope).real.reshape(len(s), -1).sum(1)
        value = self.value(s, y)
        # Zero in value; its gradient is that of the event's function at a fixed time.
        moved = torch.where(met, (value.detach() - value) / torch.where(met, rate, torch.ones_like(rate)), 0)
        times = torch.where(met, (s + moved) * self.loop.direction, math.nan)
        return times, y + slope * self.loop.wide(moved, y)
