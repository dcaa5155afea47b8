"""What a command of the command line is."""

from argparse import ArgumentParser
from typing import Any, Protocol


class Command(Protocol):
    """A module or object with these names."""

    USAGE: str
    DESCRIPTION: str

    def add_arguments(self, parser: ArgumentParser, /) -> None:
        """Declare its flags."""
        ...

    def run(self, options: Any, /) -> None:
        """Do it."""
        ...
