"""Evaluations of fields while a network is trained: blocks and solves add theirs, whoever trains reads the sums.

Backward passes run where PyTorch wants them to, on threads of its own for devices, so the counts are the process's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(eq=False)
class Evaluations:
    """Evaluations of fields in forward passes and in backward passes.

    Those of a backward pass are what it makes anew: the solve back of the adjoint method, steps that are taken again or
    back. Backpropagation makes none.
    """

    forward: int = 0
    backward: int = 0


class Tallied(Protocol):
    """What counts the evaluations of a field."""

    evaluations: int


_counts: list[Evaluations] = []
_back = 0


@contextmanager
def counting() -> Iterator[Evaluations]:
    """The evaluations of whatever runs inside, counted as it runs.

    >>> with counting() as count:
    ...     counted(3)
    >>> count
    Evaluations(forward=3, backward=0)
    """
    count = Evaluations()
    _counts.append(count)
    try:
        yield count
    finally:
        _counts.remove(count)


def counted(evaluations: int) -> None:
    """Add evaluations that were made, to those of backward passes inside of one."""
    for count in _counts:
        if _back:
            count.backward += evaluations
        else:
            count.forward += evaluations


@contextmanager
def going_back(tally: Tallied | None = None) -> Iterator[None]:
    """Inside is part of a backward pass; what ``tally`` counts meanwhile is added at the end."""
    global _back
    before = 0 if tally is None else tally.evaluations
    _back += 1
    try:
        yield
    finally:
        if tally is not None:
            counted(tally.evaluations - before)
        _back -= 1
