"""Solutions as functions of time."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError
from dynamicblocks.integrators import Embedded
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.solving.batched_loop import Record
from dynamicblocks.solving.outputs import StepLike
from dynamicblocks.tracing import untraced


@dataclass(frozen=True)
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

    @untraced
    def __call__(self, t: Tensor | float) -> Tensor:
        """The states at times of any shape, shape (*times, *state)."""
        like = self.steps[0].y0
        times = t if isinstance(t, Tensor) else torch.tensor(t, device=like.device)
        numbers = times.detach().reshape(-1).tolist()
        begin, forward = self.steps[0].t0, self.end >= self.steps[0].t0
        low, high = sorted((begin, self.end))
        # Times of lower precision may round to just outside.
        slack = 1e-6 * (high - low)
        outside = [time for time in numbers if not low - slack <= time <= high + slack]
        if outside:
            raise ArgumentError(
                f"the solution reaches from {begin:.9g} to {self.end:.9g}, got the time {outside[0]:.9g}"
            )
        ends = [step.t1 if forward else -step.t1 for step in self.steps]
        groups: dict[int, list[int]] = {}
        for place, time in enumerate(numbers):
            index = min(bisect_left(ends, time if forward else -time), len(ends) - 1)
            groups.setdefault(index, []).append(place)
        found = (
            torch.empty(0) if not groups else torch.cat([self._on(n, places, times) for n, places in groups.items()])
        )
        order = [place for places in groups.values() for place in places]
        where = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=like.device, dtype=torch.long)
        return found[where].reshape(*times.shape, *like.shape)

    def _on(self, index: int, places: list[int], times: Tensor) -> Tensor:
        """The states at some of the times, all of which lie on one step."""
        step = self.steps[index]
        kind = step.y0.real.dtype if step.y0.is_complex() else step.y0.dtype
        chosen = times.reshape(-1)[places]
        x = torch.tensor([(time - step.t0) / (step.t1 - step.t0) for time in chosen.detach().tolist()], dtype=kind)
        x = x.to(step.y0.device)
        if chosen.requires_grad:
            x = x + ((chosen - chosen.detach()) / (step.t1 - step.t0)).to(x)
        return step.state(x.reshape(-1, *(1 for _ in step.y0.shape)))


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
