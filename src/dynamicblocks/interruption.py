"""Signals that ask a program to end: at once where nothing is lost by it, else at the next safe place.

A training ends between two steps, with a checkpoint; whatever comes before and after it may end anywhere, because files
appear whole or not at all.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Those that there are on this system: Windows has no SIGUSR1, which SLURM sends before it requeues a job.
ASKED_TO_END = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

INTERRUPTED, TERMINATED = 130, 143


class Interrupted(KeyboardInterrupt):
    """A signal asked to end.

    Args:
        asked: the signal.
        message: what became of the work, and how to go on.

    >>> Interrupted(ASKED_TO_END[1]).code
    143
    """

    def __init__(self, asked: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.signal = asked

    @property
    def code(self) -> int:
        """The exit code of a program that ends so: 130 after Ctrl-C, 143 after the others."""
        return exit_code(self.signal)


def exit_code(asked: int) -> int:
    """The exit code of a program that a signal asked to end."""
    return INTERRUPTED if asked == signal.SIGINT else TERMINATED


class _Listener:
    """What was asked for, of which there is one in a process, as there is one handler for a signal."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferring = 0
        self.depth = 0

    def hear(self, asked: int, _: FrameType | None) -> None:
        if self.asked is not None:
            if asked == signal.SIGINT:  # a second Ctrl-C: whoever types it does not want to wait
                os._exit(INTERRUPTED)
            return
        self.asked = asked
        if not self.deferring:
            raise Interrupted(asked)


_listener = _Listener()


@contextmanager
def listening() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into :class:`Interrupted` for a while, in the main thread; elsewhere do nothing.

    Where a signal is ignored, as under ``nohup``, or an outer ``listening`` is under way, that is left as it is.
    """
    if threading.current_thread() is not threading.main_thread() or _listener.depth:
        yield
        return
    before = {asked: signal.getsignal(asked) for asked in ASKED_TO_END}
    mine = [asked for asked, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    _listener.depth += 1
    try:
        for asked in mine:
            signal.signal(asked, _listener.hear)
        yield
    finally:
        for asked in mine:
            signal.signal(asked, before[asked])
        _listener.depth -= 1
        _listener.asked = None


@contextmanager
def deferred() -> Iterator[None]:
    """Only note signals inside: the code there asks :func:`requested`, or calls :func:`check`, where it may end."""
    _listener.deferring += 1
    try:
        yield
    finally:
        _listener.deferring -= 1


def requested() -> int | None:
    """The signal that asked to end, if one did."""
    return _listener.asked


def check() -> None:
    """End here if a signal asked for it.

    Raises:
        Interrupted: one did.
    """
    if _listener.asked is not None:
        raise Interrupted(_listener.asked)
