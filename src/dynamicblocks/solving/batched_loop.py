"""The adaptive loop in tensors alone: each sample of a batch has steps of its own.

One attempt is a pure function of tensors, so it can be compiled, several of them in one call. The host reads one tensor
back after each call: which samples are under way, and which outputs lie on the steps that were taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.integrators import Embedded, Tolerance
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.solving.step_control import StepControl

# Entries of the parts of steps that are kept before outputs are made of them.
PENDING = 2**22
# No more steps than this are foreseen.
MANY = 2**20

BatchField = Callable[[Tensor, Tensor], Tensor]


class Carry(NamedTuple):
    """Where all samples stand; tensors of shape (B,) but for the state and its slope.

    ``s`` is time times direction, which always grows; ``h`` the size of the next step, ``older`` the error ratios of
    the last two accepted steps, ``was_rejected`` whether the last attempt was turned down. ``stuck`` samples have no
    step left to try; ``lost`` are those of them whose last one met values that are not finite.
    """

    s: Tensor
    h: Tensor
    y: Tensor
    slope: Tensor
    older: tuple[Tensor, Tensor]
    was_rejected: Tensor
    running: Tensor
    stuck: Tensor
    lost: Tensor
    accepted: Tensor
    rejected: Tensor


def start(s: Tensor, y: Tensor, begin: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Carry:
    """The samples before their first steps; ``begin`` finds their slopes and the sizes of these steps."""
    # Fresh tensors of plain layout, none of them twice: a compiled loop would be compiled again for another carry.
    s, y = s.clone(memory_format=torch.contiguous_format), y.view_as(y)
    slope, h = begin(s, y)
    if slope.requires_grad and not y.requires_grad:
        y = y.detach().requires_grad_().view_as(y)
    no, count = torch.zeros_like(s, dtype=torch.bool), torch.zeros_like(s, dtype=torch.int64)
    ones = torch.ones_like(h), torch.ones_like(h)
    return Carry(s, h, y, slope, ones, no, ~no, no.clone(), no.clone(), count, count.clone())


class Summary(NamedTuple):
    """What is known of some attempts beyond the states.

    ``told`` is read by the host, shape (1 + K, B): its first row has 1 if any sample is still under way, plus 2 if any
    attempt was not finite, plus 4 times how many more steps of its present size the farthest sample needs; the others
    have how many outputs lie on each attempt of each sample. ``passed`` counts all outputs so far.
    """

    told: Tensor
    passed: Tensor


class Record(NamedTuple):
    """One attempt of every sample: where it began and ended (at its begin, if it was not accepted), and its parts."""

    s0: Tensor
    s1: Tensor
    parts: tuple[Tensor, ...]
    ratio: Tensor


@dataclass(frozen=True)
class BatchedLoop:
    """A method that takes steps as long as the tolerance allows, for each sample on its own.

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

    def begin(self, s: Tensor, y: Tensor, first_step: float | None) -> tuple[Tensor, Tensor]:
        """The slopes of all samples, and the sizes of their first steps."""
        slope = self.at(s, y)
        return slope, self._first_sizes(s, y, slope) if first_step is None else torch.full_like(s, first_step)

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
            finite, least = torch.isfinite(ratio), size <= control.min_step
            taken = carry.running & ((ratio <= 1) | least & finite)
            sizes = control.next_sizes(size, (ratio, *carry.older), self.method.error_order, carry.was_rejected)
            older = tuple(torch.where(taken, a, b) for a, b in zip((ratio, carry.older[0]), carry.older, strict=True))
            stuck = carry.running & ~taken & (least | (s + size * control.shrink == s))
            where = self.wide(taken, y)
            s_next = torch.where(taken, s1, s)
        y_next = torch.where(where, trial.y1, y)
        new = Carry(
            s_next,
            torch.where(carry.running, sizes, carry.h),
            y_next,
            torch.where(where, trial.end, carry.slope),
            (older[0], older[1]),
            carry.running & ~taken,
            carry.running & ~stuck & (s_next < end),
            carry.stuck | stuck,
            carry.lost | (stuck & ~finite),
            carry.accepted + taken,
            carry.rejected + (carry.running & ~taken),
        )
        return new, Record(s, s_next, tuple(trial.parts(y, h)), ratio)

    def attempts(
        self, carry: Carry, end: Tensor, s: Tensor, passed: Tensor, count: int
    ) -> tuple[Carry, Record, Summary]:
        """Several attempts in one call.

        Args:
            carry: where the samples stand.
            end: last times times the direction, shape (B,).
            s: times of output times the direction, shape (B, T).
            passed: how many of them are passed, shape (B,).
            count: how many attempts.

        Returns:
            Where the samples stand then, the records with a dimension in front for the attempts, and
            :func:`summarise` them.
        """
        records, new = [], carry
        for _ in range(count):
            new, record = self.attempt(new, end)
            records.append(record)
        stacked = Record(
            torch.stack([record.s0 for record in records]),
            torch.stack([record.s1 for record in records]),
            tuple(torch.stack(each) for each in zip(*(record.parts for record in records), strict=True)),
            torch.stack([record.ratio for record in records]),
        )
        return new, stacked, summarise(carry, new, stacked, stacked.s1, end, s, passed)

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
class BatchedOutputs:
    """The states at the times of output, collected while the samples pass them.

    Args:
        s: times of output times the direction, shape (B, T), each row increasing; the first is the begin.
        y0: the states there.
        method: has the interpolant.
    """

    s: Tensor
    y0: Tensor
    method: Embedded
    passed: Tensor = field(init=False)
    _known: "np.ndarray[Any, Any]" = field(init=False)
    _values: list[Tensor] = field(init=False)
    _places: list["np.ndarray[Any, Any]"] = field(init=False)
    _pending: list[tuple[Record, "np.ndarray[Any, Any]"]] = field(default_factory=list)

    _kept: int = 0

    def __post_init__(self) -> None:
        samples, times = self.s.shape
        self.passed = torch.ones(samples, dtype=torch.int64, device=self.s.device)
        self._known = np.ones(samples, dtype=np.int64)
        self._values = [self.y0]
        self._places = [np.arange(samples) * times]

    def take(self, record: Record, counts: "np.ndarray[Any, Any]") -> None:
        """The states on these attempts: ``counts`` says how many for each attempt and sample, shape (K, B)."""
        self._pending.append((record, counts))
        # Few large operations are cheaper than many small ones; what is kept for them is bounded.
        self._kept += sum(part.numel() for part in record.parts)
        if self._kept > PENDING:
            self._flush()

    def _flush(self) -> None:
        records = [record for record, _ in self._pending]
        counts = np.concatenate([counts for _, counts in self._pending])
        self._pending, self._kept = [], 0
        k, b = np.nonzero(counts)
        if not len(k):
            return
        repeats = counts[k, b]
        first = (self._known + np.cumsum(counts, 0) - counts)[k, b]
        self._known = self._known + counts.sum(0)
        # The place of each output among its sample's: first, first + 1, ... on each attempt.
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        place = np.repeat(first, repeats) + within
        k, b = np.repeat(k, repeats), np.repeat(b, repeats)
        at = tuple(torch.from_numpy(index).to(self.s.device) for index in (k, b))
        s0, s1 = (torch.cat(each)[at] for each in ([r.s0 for r in records], [r.s1 for r in records]))
        x = (self.s[at[1], torch.from_numpy(place).to(self.s.device)] - s0) / (s1 - s0)
        parts = [torch.cat(part)[at] for part in zip(*(record.parts for record in records), strict=True)]
        like = parts[0]
        x = x.to(like.real.dtype if like.is_complex() else like.dtype).reshape(-1, *(1 for _ in like.shape[1:]))
        self._values.append(combine(self.method.weights(x), parts))
        self._places.append(b * self.s.shape[1] + place)

    def states(self) -> Tensor:
        """All states, shape (T, B, *); not a number where a sample never came."""
        if self._pending:
            self._flush()
        samples, times = self.s.shape
        values, places = torch.cat(self._values), np.concatenate(self._places)
        where = np.full(samples * times, len(values))
        where[places] = np.arange(len(values))
        if len(values) < samples * times:
            values = torch.cat([values, torch.full_like(values[:1], math.nan)])
        # Times first, as everywhere.
        order = torch.from_numpy(where.reshape(samples, times).T.copy()).to(values.device)
        return values[order]


def rows_norm(y: Tensor) -> Tensor:
    """The root of the mean square of each sample's entries."""
    flat = y.reshape(len(y), math.prod(y.shape[1:]))
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(max(1, flat.shape[1]))


Stop = Callable[[Carry, Record], tuple[Tensor, Tensor] | None]
Attempts = Callable[[Carry, Tensor, Tensor, Tensor, int], tuple[Carry, Record, Summary]]
"""(carry, end, s, passed, ahead) -> some attempts of all samples; ``ahead`` says about how many more will be needed."""


def run_loop(
    start: Carry, end: Tensor, outputs: BatchedOutputs, attempts: Attempts, max_attempts: int, stop: Stop | None = None
) -> Carry:
    """Bring all samples to their ends, or to where they are stopped, and return where they stand.

    Args:
        start: the samples before their first steps.
        end: last times times the direction, shape (B,).
        outputs: takes the states on the way.
        attempts: :meth:`BatchedLoop.attempts`, perhaps compiled, with a number of its own choice in a call.
        max_attempts: most attempts of a sample.
        stop: called after single attempts; says which samples stop there, and when.
    """
    carry, tried, ahead = start, 0, 1
    while tried < max_attempts:
        new, record, summary = attempts(carry, end, outputs.s, outputs.passed, ahead)
        tried += len(record.s0)
        found = None if stop is None else stop(carry, record)
        if found is not None:
            stopped, when = found
            new = new._replace(running=new.running & ~stopped)
            reached = torch.where(stopped, when, record.s1)
            summary = summarise(carry, new, record, reached, end, outputs.s, outputs.passed)
        # The one tensor that is read back.
        told = summary.told.numpy(force=True)
        flags = int(told[0, 0])
        # First steps are short, and say little about how many will follow.
        ahead = flags >> 2 if tried >= 3 else 1
        if flags & 2 and new.y.requires_grad and len(record.s0) == 1:
            # What is not finite must not enter the graph, where zero times it is no zero: nobody takes this attempt.
            carry = _shortened(carry, new, record)
            if not bool(carry.running.any()):
                break
            continue
        outputs.take(record, told[1:])
        outputs.passed = summary.passed
        carry = new
        if not flags & 1:
            break
    return carry


def _shortened(carry: Carry, new: Carry, record: Record) -> Carry:
    """Where the samples stood, with shorter steps for those whose attempt was not finite."""
    lost = ~torch.isfinite(record.ratio[-1]) & carry.running
    return carry._replace(
        h=torch.where(lost, new.h, carry.h),
        was_rejected=carry.was_rejected | lost,
        running=carry.running & ~(new.stuck & lost),
        stuck=carry.stuck | (new.stuck & lost),
        lost=carry.lost | (new.stuck & lost),
        rejected=carry.rejected + lost,
    )


def summarise(
    carry: Carry, new: Carry, record: Record, reached: Tensor, end: Tensor, s: Tensor, passed: Tensor
) -> Summary:
    """The summary of some attempts from ``carry`` to ``new``, each of which ends at ``reached``."""
    upto = torch.searchsorted(s, reached.T.contiguous(), right=True).T
    counts = (upto - torch.cat([passed[None], upto[:-1]])).clamp_min(0)
    lost = (~torch.isfinite(record.ratio) & carry.running).any()
    ahead = torch.where(new.running, (end - new.s) / new.h, 0).nan_to_num(0).clamp(0, MANY).amax().to(torch.int64)
    flags = new.running.any().to(torch.int64) + 2 * lost.to(torch.int64) + 4 * ahead
    return Summary(torch.cat([flags.expand(1, s.shape[0]), counts]), passed + counts.sum(0))
