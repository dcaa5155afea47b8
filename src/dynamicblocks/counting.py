"""Evaluations of fields while a network is trained: blocks and solves add theirs, whoever trains reads the sums.

Backward passes run where PyTorch wants them to, on threads of its own for devices, so the counts are the process's.
Whether a thread is in a backward pass is its own affair: another may go forward meanwhile.
"""

import threading
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


class _Passes(threading.local):
    """How many backward passes, one within another, the thread is in."""

    back = 0


_counts: list[Evaluations] = []
_passes = _Passes()
_lock = threading.Lock()


@contextmanager
def counting() -> Iterator[Evaluations]:
    """The evaluations of whatever runs inside, counted as it runs.

    >>> with counting() as count:
    ...     counted(3)
    >>> count
    Evaluations(forward=3, backward=0)
    """
    count = Evaluations()
    with _lock:
        _counts.append(count)
    try:
        yield count
    finally:
        with _lock:
            _counts.remove(count)


def counted(evaluations: int) -> None:
    """Add evaluations that were made, to those of backward passes inside of one."""
    if not _counts:
        return
    with _lock:
        for count in _counts:
            if _passes.back:
                count.backward += evaluations
            else:
                count.forward += evaluations


def counted_back(evaluations: int) -> None:
    """Add evaluations of a node of the graph, unless it lies within a backward pass that counts its own."""
    if not _passes.back:
        with going_back():
            counted(evaluations)


@contextmanager
def going_back(tally: Tallied | None = None) -> Iterator[None]:
    """Inside is part of a backward pass; what ``tally`` counts meanwhile is added at the end."""
    before = 0 if tally is None else tally.evaluations
    _passes.back += 1
    try:
        yield
    finally:
        if tally is not None:
            counted(tally.evaluations - before)
        _passes.back -= 1
