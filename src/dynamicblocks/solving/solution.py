"""What a solve returns."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.solving.status import Status
from dynamicblocks.solving.summary import counted, described, shortened


@dataclass(frozen=True, repr=False)
class Statistics:
    """What a solve cost.

    Args:
        evaluations: calls of the field by steps; with steps of their own all samples share a call.
        accepted, rejected: steps, numbers or, shape (B,), of each sample.
        seconds_in_field: time spent in func; with ``compile=True`` not known.
        not_converged: equations of steps that an implicit method could not solve; the first ends the solve, unless the
            method is adaptive, which then tries a shorter step.
    """

    evaluations: int
    accepted: int | Tensor
    rejected: int | Tensor
    seconds_in_field: float | None
    not_converged: int = 0

    def __repr__(self) -> str:
        """One line, however many samples there are."""
        values = ", ".join(f"{each.name}={counted(getattr(self, each.name))}" for each in fields(self))
        return f"{type(self).__name__}({values})"


@dataclass(frozen=True, repr=False)
class Solution:
    """The states of an initial value problem.

    Args:
        t: times, shape (T,) or (B, T).
        y: states at the times, shape (T, *state), nested as y0 was; not a number where they were not reached.
        status: how far the solve came, or each sample.
        statistics: what it cost.
        interpolant: the states as a function of time, with ``dense=True``.
        event_t, event_y: times, shape (B,), and states of the events; times not a number where there was none.
        message: what went wrong, with ``on_failure="return"``; else empty.
    """

    t: Tensor
    y: Any
    status: Status | list[Status]
    statistics: Statistics
    interpolant: Callable[[Tensor | float], Any] | None = None
    event_t: Tensor | None = None
    event_y: Any = None
    message: str = ""

    @property
    def success(self) -> bool:
        """Whether every sample came to its last time, or to its event."""
        found = self.status if isinstance(self.status, list) else [self.status]
        return all(each in (Status.DONE, Status.EVENT) for each in found)

    def __repr__(self) -> str:
        """A summary of a few lines, whatever the size of the states."""
        lines = [f"{_times(self.t)}", f"y: {described(self.y)}", _statuses(self.status), repr(self.statistics)]
        if self.event_t is not None:
            lines.append(f"event: {_events(self.event_t)}, event_y: {described(self.event_y)}")
        if self.interpolant is not None:
            lines.append("interpolant: dense")
        if self.message:
            lines.append(f"message: {shortened(self.message)}")
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _times(t: Tensor) -> str:
    """How many times, and from where to where."""
    if t.ndim == 1:
        return f"t: {len(t)} from {t[0].item():.6g} to {t[-1].item():.6g}"
    first, last = (f"{each.min().item():.6g}..{each.max().item():.6g}" for each in (t[:, 0], t[:, -1]))
    return f"t: {t.shape[1]} for each of {len(t)} samples, from {first} to {last}"


def _statuses(status: Status | list[Status]) -> str:
    if not isinstance(status, list):
        return f"status: {status.name}"
    counts = {each: status.count(each) for each in sorted(set(status))}
    return f"status of {len(status)} samples: " + ", ".join(f"{number} {each.name}" for each, number in counts.items())


def _events(times: Tensor) -> str:
    """When events were, or that there was none."""
    met = times.detach()[torch.isfinite(times)]
    if times.ndim == 0:
        return f"at t = {times.item():.9g}" if len(met.reshape(-1)) else "none"
    found = f" from t = {met.min().item():.6g} to {met.max().item():.6g}" if len(met) else ""
    return f"{len(met)} of {len(times)} samples{found}"
