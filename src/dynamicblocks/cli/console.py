"""Where commands write."""

from typing import Any

from rich.console import Console

from dynamicblocks.bars import Bars, say
from dynamicblocks.cli.arguments import Arguments

__all__ = ["Bars", "add_quiet_argument", "make_console", "say"]

QUIET = "print errors and {last} alone"


def add_quiet_argument(parser: Arguments, last: str) -> None:
    """The flag --quiet; ``last`` is what is printed all the same."""
    parser.add_argument("--quiet", action="store_true", help=QUIET.format(last=last))


def make_console(options: Any = None) -> Console:
    """Standard output; none of it where ``options`` ask to be quiet."""
    return Console(quiet=getattr(options, "quiet", False))
