"""What a command of the command line is."""

from typing import Any, Protocol

from dynamicblocks.cli.arguments import Arguments


class Command(Protocol):
    """A module or object with these names."""

    USAGE: str
    DESCRIPTION: str

    def add_arguments(self, parser: Arguments, /) -> None:
        """Declare its arguments."""
        ...

    def run(self, options: Any, /) -> None:
        """Do it."""
        ...
