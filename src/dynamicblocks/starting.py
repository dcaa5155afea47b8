"""The first moments of the program ``dynamicblocks``, before its ``main`` is imported: a signal ends it with a word."""

import os
import signal
import sys
from types import FrameType

NAMES = ("dynamicblocks", "dynamicblocks.exe", "dynamicblocks-script.py")
MODULE = ["-m", "dynamicblocks.cli.main"]


def is_program() -> bool:
    """Whether this process is that program, and not one that imports the package."""
    return os.path.basename(sys.argv[0] if sys.argv else "") in NAMES or sys.orig_argv[1:3] == MODULE  # noqa: PTH119


def end_quietly() -> None:
    """Let the signals that ask to end do so, rather than show where an import was."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        asked = getattr(signal, name, None)
        if asked is not None and signal.getsignal(asked) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(asked, _end)


def _end(asked: int, _: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, b"interrupted\n")
    os._exit(130 if asked == signal.SIGINT else 143)
