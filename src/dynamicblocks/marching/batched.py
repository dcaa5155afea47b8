"""The adaptive loop in tensors alone: each sample of a batch has steps of its own.

One attempt is a pure function of tensors, so it can be compiled, several of them in one call. The host reads one tensor
back after each call: which samples are under way, and which outputs lie on the steps that were taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicblocks.integrators import Embedded, Tolerance
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.marching.control import StepControl

BatchField = Callable[[Tensor, Tensor], Tensor]


class Status(IntEnum):
    """How far a sample has come."""

    RUNNING = 0
    DONE = 1
    STEP_LIMIT = 2
    UNDERFLOW = 3
    NOT_FINITE = 4
    EVENT = 5


class Carry(NamedTuple):
    """Where all samples stand; tensors of shape (B,) but for the state and its slope.

    ``s`` is time times direction, which always grows; ``h`` the size of the next step, ``older`` the error ratios of
    the last two accepted steps.
    """

    s: Tensor
    h: Tensor
    y: Tensor
    slope: Tensor
    older: tuple[Tensor, Tensor]
    running: Tensor
    stuck: Tensor
    accepted: Tensor
    rejected: Tensor


class Record(NamedTuple):
    """One attempt of every sample: where it began and ended (at its begin, if it was not accepted), and its parts."""

    s0: Tensor
    s1: Tensor
    parts: tuple[Tensor, ...]
    ratio: Tensor


@dataclass(frozen=True)
class BatchedMarch:
    """A method marched with steps as long as the tolerance allows, for each sample on its own.

    Args:
        field: the right-hand side (t, y) -> slope; t has shape (B, 1, ..., 1), one dimension for each of y.
        method: estimates its own error; an explicit one.
        tolerance: of the error of a step; its norm maps (B, *) to (B,).
        control: of the length of the steps.
        direction: 1 or -1 for each sample, shape (B,).
        stops: times that steps must meet, times the direction, shape (B, S), or None.
        jumps: whether the field jumps there.
    """

    field: BatchField
    method: Embedded
    tolerance: Tolerance
    control: StepControl
    direction: Tensor
    stops: Tensor | None = None
    jumps: bool = False

    def start(self, s: Tensor, y: Tensor, first_step: float | None) -> Carry:
        """The samples before their first steps."""
        slope = self.at(s, y)
        h = self._first_sizes(s, y, slope) if first_step is None else torch.full_like(s, first_step)
        count = torch.zeros_like(s, dtype=torch.int64)
        no = torch.zeros_like(s, dtype=torch.bool)
        older = (torch.ones_like(s), torch.ones_like(s))
        return Carry(s, h, y, slope, older, ~no, no, count, count)

    def attempt(self, carry: Carry, end: Tensor) -> tuple[Carry, Record]:
        """One attempt of every sample that is under way; the others stay where they are."""
        s, y, control = carry.s, carry.y, self.control
        size = carry.h.clamp(control.min_step, control.max_step)
        limit = end - s
        if self.stops is not None:
            # A stop that is passed, or where the sample stands, is no limit.
            ahead = torch.where(self.stops > s[:, None], self.stops - s[:, None], math.inf)
            limit = torch.minimum(limit, ahead.amin(1))
        meets = size >= limit
        size = torch.where(carry.running, torch.minimum(size, limit), 0)
        s1 = torch.where(meets, s + limit, s + size)
        h = self.wide(size * self.direction, y)
        slope = self.at(torch.nextafter(s, s + 1), y) if self.jumps else carry.slope
        last = torch.nextafter(s1, s) if self.jumps else s1
        trial = self.method.attempt(
            lambda c, at: self.at(last if c == 1 else s + c * size, at), h, y, slope, self.tolerance
        )
        with torch.no_grad():
            ratio = torch.as_tensor(self.tolerance.norm(trial.error / self.tolerance.scale(y, trial.y1)))
            taken = carry.running & ((ratio <= 1) | (size <= control.min_step))
            sizes = control.next_sizes(size, (ratio, *carry.older), self.method.error_order)
            older = tuple(torch.where(taken, a, b) for a, b in zip((ratio, carry.older[0]), carry.older, strict=True))
            stuck = carry.running & ~taken & (s + size * control.shrink == s)
            where = self.wide(taken, y)
            s_next = torch.where(taken, s1, s)
        y_next = torch.where(where, trial.y1, y)
        new = Carry(
            s_next,
            torch.where(carry.running, sizes, carry.h),
            y_next,
            torch.where(where, trial.end, carry.slope),
            (older[0], older[1]),
            carry.running & ~stuck & (s_next < end),
            carry.stuck | stuck,
            carry.accepted + taken,
            carry.rejected + (carry.running & ~taken),
        )
        return new, Record(s, s_next, tuple(trial.parts(y, h)), ratio)

    def attempts(self, carry: Carry, end: Tensor, count: int) -> tuple[Carry, Record]:
        """Several attempts in one call; records have a dimension in front for them."""
        records = []
        for _ in range(count):
            carry, record = self.attempt(carry, end)
            records.append(record)
        parts = tuple(torch.stack(each) for each in zip(*(record.parts for record in records), strict=True))
        return carry, Record(
            torch.stack([record.s0 for record in records]),
            torch.stack([record.s1 for record in records]),
            parts,
            torch.stack([record.ratio for record in records]),
        )

    def at(self, s: Tensor, y: Tensor) -> Tensor:
        """The slope of every sample at its own time."""
        return self.field(self.wide(s * self.direction, y), y)

    @staticmethod
    def wide(values: Tensor, y: Tensor) -> Tensor:
        """One value for each sample as a factor of its state."""
        if values.dtype != torch.bool:
            values = values.to(y.real.dtype if y.is_complex() else y.dtype)
        return values.reshape(-1, *(1 for _ in y.shape[1:]))

    def _first_sizes(self, s: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        """First steps whose error is about a hundredth of the tolerance (Hairer, Norsett and Wanner, II.4)."""
        norm = self.tolerance.norm
        with torch.no_grad():
            scale = self.tolerance.scale(y)
            d0, d1 = torch.as_tensor(norm(y / scale)), torch.as_tensor(norm(slope / scale))
            h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1).to(s.dtype)
            at = y + self.wide(h0 * self.direction, y) * slope
            d2 = torch.as_tensor(norm((self.at(s + h0, at) - slope) / scale)) / h0
            largest = torch.maximum(d1, d2)
            h1 = torch.where(
                largest <= 1e-15, (1e-3 * h0).clamp_min(1e-6), (0.01 / largest) ** (1 / self.method.error_order)
            )
            return torch.minimum(100 * h0, h1).nan_to_num(1e-6)


@dataclass
class Outputs:
    """The states at the times of output, collected while the samples pass them.

    Args:
        s: times of output times the direction, shape (B, T), each row increasing; the first is the begin.
        y0: the states there.
        method: has the interpolant.
    """

    s: Tensor
    y0: Tensor
    method: Embedded
    _passed: Tensor = field(init=False)
    _values: list[Tensor] = field(default_factory=list)
    _places: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        samples, times = self.s.shape
        self._passed = torch.ones(samples, dtype=torch.int64, device=self.s.device)
        self._values = [self.y0]
        self._places = [torch.arange(samples, device=self.s.device) * times]

    def counts(self, reached: Tensor) -> Tensor:
        """How many outputs lie on each attempt of each sample, which ends at the times ``reached``, shape (K, B)."""
        upto = torch.searchsorted(self.s, reached.T.contiguous(), right=True).T
        before = torch.cat([self._passed[None], upto[:-1]])
        return (upto - before).clamp_min(0)

    def take(self, record: Record, counts: Tensor, known: list[list[int]]) -> None:
        """The states at those times; ``known`` are the counts on the host."""
        attempts = [(k, b, n) for k, row in enumerate(known) for b, n in enumerate(row) if n]
        first = self._passed[None] + torch.cumsum(counts, 0) - counts
        self._passed = self._passed + counts.sum(0)
        if not attempts:
            return
        device = self.s.device
        k, b, repeats = torch.tensor(attempts, device=device).T
        total = sum(n for _, _, n in attempts)
        index = torch.repeat_interleave(torch.arange(len(attempts), device=device), repeats, output_size=total)
        k, b = k[index], b[index]
        begin = torch.cumsum(repeats, 0) - repeats
        place = first[k, b] + torch.arange(total, device=device) - begin[index]
        s0, s1 = record.s0[k, b], record.s1[k, b]
        x = (self.s[b, place] - s0) / (s1 - s0)
        parts = [part[k, b] for part in record.parts]
        like = parts[0]
        x = x.to(like.real.dtype if like.is_complex() else like.dtype).reshape(-1, *(1 for _ in like.shape[1:]))
        self._values.append(combine(self.method.weights(x), parts))
        self._places.append(b * self.s.shape[1] + place)

    def states(self) -> Tensor:
        """All states, shape (T, B, *); not a number where a sample never came."""
        samples, times = self.s.shape
        values, places = torch.cat(self._values), torch.cat(self._places)
        where = torch.full((samples * times,), len(values), device=places.device)
        where[places] = torch.arange(len(values), device=places.device)
        if len(values) < samples * times:
            values = torch.cat([values, torch.full_like(values[:1], math.nan)])
        return values[where].reshape(samples, times, *values.shape[1:]).transpose(0, 1)


def rows_norm(y: Tensor) -> Tensor:
    """The root of the mean square of each sample's entries."""
    flat = y.reshape(len(y), -1)
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(max(1, flat.shape[1]))


Stop = Callable[[Carry, Record], tuple[Tensor, Tensor] | None]


def march(
    start: Carry,
    end: Tensor,
    outputs: Outputs,
    attempts: Callable[[Carry, Tensor], tuple[Carry, Record]],
    max_attempts: int,
    stop: Stop | None = None,
) -> Carry:
    """March all samples to their ends, or to where they are stopped, and return where they stand.

    Args:
        start: the samples before their first steps.
        end: last times times the direction, shape (B,).
        outputs: takes the states on the way.
        attempts: one or several attempts of all samples.
        max_attempts: most attempts of a sample.
        stop: called after single attempts; says which samples stop there, and when.
    """
    carry, tried = start, 0
    while tried < max_attempts:
        new, record = attempts(carry, end)
        tried += len(record.s0)
        reached = record.s1
        found = None if stop is None else stop(carry, record)
        if found is not None:
            stopped, when = found
            new = new._replace(running=new.running & ~stopped)
            reached = torch.where(stopped, when, reached)
        counts = outputs.counts(reached)
        # The one tensor that is read back.
        lost = ~torch.isfinite(record.ratio).all(0) & carry.running
        flags, *known = torch.cat(
            [(new.running.any() + 2 * lost.any())[None, None].expand(1, len(end)), counts]
        ).tolist()
        under_way, retry = flags[0] % 2 == 1, flags[0] >= 2
        if retry and new.y.requires_grad and len(record.s0) == 1:
            # What is not finite must not enter the graph, where zero times it is no zero: nobody takes this attempt.
            carry = carry._replace(
                h=torch.where(lost, new.h, carry.h),
                running=carry.running & ~(new.stuck & lost),
                stuck=carry.stuck | (new.stuck & lost),
                rejected=carry.rejected + lost,
            )
            if not bool(carry.running.any()):
                break
            continue
        outputs.take(record, counts, known)
        carry = new
        if not under_way:
            break
    return carry
