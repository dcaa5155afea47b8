"""Signals that ask a program to end: at once where nothing is lost by it, else at the next safe place.

A training ends between two steps, with a checkpoint; whatever comes before and after it may end anywhere, because files
appear whole or not at all.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

# Those that there are on this system: Windows has no SIGUSR1, which SLURM sends before it requeues a job.
ASKED_TO_END = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

INTERRUPTED, TERMINATED = 130, 143

# Names, to the processes that a training starts, the one that started them: it speaks for all.
FIRST_PROCESS = "DYNAMICBLOCKS_FIRST_PROCESS"

# A program that started this one may pass on a Ctrl-C that the terminal sends to both: in so many seconds it is one.
ONE_KEYSTROKE = 0.1
# An exception that a library printed and dropped, as in a finaliser, comes again after so many seconds.
COMES_AGAIN = 0.05


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
    """What was asked for, of which there is one in a process, as there is one handler for a signal.

    ``raised`` is whether the work was broken off where it was; ``last_words`` are said where it ends at once.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.process = 0
        self.forget()

    def forget(self) -> None:
        self.asked: int | None = None
        self.when = 0.0
        self.raised = False
        self.deferring = False
        self.at_once = False
        self.last_words: Callable[[], str] = lambda: "interrupted"

    def hear(self, asked: int, _: FrameType | None) -> None:
        if os.getpid() != self.process:  # forked, and not yet told whom it serves
            return
        if self.asked is not None:
            if asked == signal.SIGINT and time.monotonic() - self.when > ONE_KEYSTROKE:
                self._end(asked)  # whoever types it a second time does not want to wait
        else:
            self.asked, self.when = asked, time.monotonic()
            if self.deferring:
                return
            if self.at_once:
                self._end(asked)
            self.raised = True
            raise Interrupted(asked)

    def _end(self, asked: int) -> NoReturn:
        end_here(self.last_words(), exit_code(asked))

    def unraisable(self, before: Callable[[Any], object], dropped: Any) -> None:
        """In the place of ``sys.unraisablehook``: an exception of ours that cannot go on from here comes again."""
        if not isinstance(dropped.exc_value, Interrupted):
            before(dropped)
            return
        self.asked = None
        threading.Timer(COMES_AGAIN, self._again, (dropped.exc_value.signal,)).start()

    def _again(self, asked: int) -> None:
        if self.depth and self.asked is None:
            os.kill(os.getpid(), asked)


_listener = _Listener()


def speaks() -> bool:
    """Whether this process tells what happens, which of those of a training only the first does."""
    return FIRST_PROCESS not in os.environ or os.environ.get("LOCAL_RANK") == "0"


def end_here(words: str, code: int) -> NoReturn:
    """End the process wherever it is, with a line, and with the cursor that a bar may have hidden."""
    cursor = "\033[?25h" if os.isatty(2) else ""
    if speaks():
        # Not through sys.stderr, in whose midst a signal may have come.
        with suppress(OSError):
            os.write(2, f"{cursor}{words}\n".encode(errors="replace"))
    os._exit(code)


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
    hook = sys.unraisablehook
    _listener.process, _listener.depth = os.getpid(), 1
    try:
        sys.unraisablehook = lambda dropped: _listener.unraisable(hook, dropped)
        for asked in mine:
            signal.signal(asked, _listener.hear)
        yield
    finally:
        for asked in mine:
            if signal.getsignal(asked) == _listener.hear:
                signal.signal(asked, before[asked])
        sys.unraisablehook = hook
        _listener.depth = 0
        _listener.forget()


@contextmanager
def deferred(last_words: Callable[[], str] | None = None) -> Iterator[None]:
    """Only note signals inside: the code there asks :func:`requested`, or calls :func:`check`, where it may end.

    Args:
        last_words: what is said where a second Ctrl-C ends the process at once.
    """
    before = _listener.deferring, _listener.last_words
    try:
        _listener.deferring, _listener.last_words = True, last_words or _listener.last_words
        yield
    finally:
        _listener.deferring, _listener.last_words = before


@contextmanager
def at_once() -> Iterator[None]:
    """A signal ends the process without more ado: for imports, some of which drop exceptions or take them for others.

    Nothing is to be under way that would have to be cleared away.
    """
    _listener.at_once = True
    try:
        yield
    finally:
        _listener.at_once = False


def requested() -> int | None:
    """The signal that asked to end, if one did."""
    return _listener.asked


def broken_off() -> int | None:
    """The signal that broke the work off somewhere: what was raised since then may be a consequence."""
    return _listener.asked if _listener.raised else None


def check() -> None:
    """End here if a signal asked for it.

    Raises:
        Interrupted: one did.
    """
    if _listener.asked is not None:
        raise Interrupted(_listener.asked)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that ask to end wait meanwhile; processes that are started inside begin with them held back."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED_TO_END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(_: int = 0) -> None:
    """In a process that works for another one: only that one decides what a signal means."""
    for asked in ASKED_TO_END:
        if asked != signal.SIGTERM:
            signal.signal(asked, signal.SIG_IGN)
    # The other one uses SIGTERM, too, to end a process that it no longer needs; who sent it a handler is not told.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def conclude(code: int) -> None:
    """The program is through, with this exit code: a signal that comes while it shuts down changes nothing."""
    for asked in ASKED_TO_END:
        if signal.getsignal(asked) == _listener.hear:
            signal.signal(asked, lambda *_: os._exit(code))
