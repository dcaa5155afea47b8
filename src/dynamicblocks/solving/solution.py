"""What a solve returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynamicblocks.solving.status import Status


@dataclass(frozen=True)
class Statistics:
    """What a solve cost.

    Args:
        evaluations: calls of the field; with steps of their own all samples share a call.
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


@dataclass(frozen=True)
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
