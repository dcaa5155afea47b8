"""Solutions as functions of time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError
from dynamicblocks.integrators import Embedded
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.solving.batched_loop import Record
from dynamicblocks.solving.outputs import ENTRIES, StepLike, states_at
from dynamicblocks.solving.summary import described
from dynamicblocks.tracing import untraced
from dynamicblocks.transforms import moves


@dataclass(frozen=True, repr=False)
class Dense:
    """The solution on the steps that were taken, by the interpolant of each.

    Args:
        steps: at least one, each from the end of the one before.
        end: the last time; the last step may go beyond it.

    Raises:
        ArgumentError: a time outside.
    """

    steps: Sequence[StepLike]
    end: float

    def __repr__(self) -> str:
        """One line, however many steps there are."""
        begin, state = self.steps[0].t0, described(self.steps[0].y0)
        return f"{type(self).__name__}(from {begin:.6g} to {self.end:.6g}, {len(self.steps)} steps, state: {state})"

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """Begins and ends of the steps, on the CPU."""
        ends = torch.tensor([(step.t0, step.t1) for step in self.steps], dtype=torch.float64)
        return ends[:, 0].contiguous(), ends[:, 1].contiguous()

    @untraced
    def __call__(self, t: Tensor | float) -> Tensor:
        """The states at times of any shape, shape (*times, *state)."""
        like = self.steps[0].y0
        times = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        asked = times.reshape(-1)
        numbers = asked.detach().cpu().double()
        begin, forward = self.steps[0].t0, self.end >= self.steps[0].t0
        low, high = sorted((begin, self.end))
        # Times of lower precision may round to just outside.
        slack = 1e-6 * (high - low)
        outside = ~((numbers >= low - slack) & (numbers <= high + slack))
        if bool(outside.any()):
            time = float(numbers[outside][0])
            raise ArgumentError(f"the solution reaches from {begin:.9g} to {self.end:.9g}, got the time {time:.9g}")
        if not len(numbers):
            return like.new_empty((*times.shape, *like.shape))
        begins, ends = self._ends
        found = torch.searchsorted(ends if forward else -ends, numbers if forward else -numbers)
        index, order = found.clamp_max(len(ends) - 1).sort(stable=True)
        x = (numbers[order] - begins[index]) / (ends[index] - begins[index])
        if moves(asked):
            moved = (asked - asked.detach())[order.to(asked.device)].to(like.device, like.abs().dtype)
            x = x.to(moved) + moved / (ends[index] - begins[index]).to(moved)
        # Many at once, but no more than stay in the caches.
        most = max(1, ENTRIES // max(1, like.numel()))
        states = torch.cat([self._on(index[n : n + most], x[n : n + most]) for n in range(0, len(x), most)])
        return states[order.argsort().to(like.device)].reshape(*times.shape, *like.shape)

    def _on(self, index: Tensor, x: Tensor) -> Tensor:
        """The states at fractions of steps, in the order of these."""
        counts = Counter(index.tolist())
        return states_at([self.steps[n] for n in counts], [*counts.values()], x)


class BatchDense:
    """The solution of each sample on its own steps.

    Args:
        records: all attempts.
        begin, end: first time and the time reached, times the direction, shape (B,).
        direction: of time for each sample.
        method: has the interpolant.
    """

    def __init__(
        self, records: Sequence[Record], begin: Tensor, end: Tensor, direction: Tensor, method: Embedded
    ) -> None:
        self.s0 = torch.cat([record.s0 for record in records])
        # Attempts that were not accepted end where they began, which is where the one before ended.
        self.s1 = torch.cat([record.s1 for record in records])
        self.parts = [torch.cat(each) for each in zip(*(record.parts for record in records), strict=True)]
        self.begin, self.end, self.direction, self.method = begin, end, direction, method

    def __repr__(self) -> str:
        """One line, however many steps there are."""
        state = described(self.parts[0][0])
        return f"{type(self).__name__}({len(self.begin)} samples, {len(self.s0)} attempts, states: {state})"

    @untraced
    def __call__(self, t: Tensor | float) -> Tensor:
        """The states at times of shape (), (Q,) for all samples, or (B, Q): shape (Q, B, *state)."""
        times = torch.as_tensor(t, device=self.s0.device).to(self.s0.dtype)
        times = times.reshape(1, -1).expand(len(self.begin), -1) if times.ndim < 2 else times
        s = times * self.direction[:, None]
        slack = 1e-6 * (self.end - self.begin)[:, None]
        outside = (s < self.begin[:, None] - slack) | (s > self.end[:, None] + slack)
        if bool(outside.any()):
            b, q = outside.nonzero()[0].tolist()
            raise ArgumentError(
                f"the solution of sample {b} reaches from {(self.begin * self.direction)[b]:.9g} to "
                f"{(self.end * self.direction)[b]:.9g}, got the time {times[b, q]:.9g}"
            )
        k = torch.searchsorted(self.s1.T.contiguous(), s.contiguous()).clamp_max(len(self.s1) - 1)
        b = torch.arange(len(s), device=s.device)[:, None].expand_as(k)
        s0, s1 = self.s0[k, b], self.s1[k, b]
        x = (s - s0) / torch.where(s1 > s0, s1 - s0, 1)
        parts = [part[k, b] for part in self.parts]
        like = parts[0]
        x = x.to(like.real.dtype if like.is_complex() else like.dtype).reshape(*x.shape, *(1 for _ in like.shape[2:]))
        return combine(self.method.weights(x), parts).transpose(0, 1)
