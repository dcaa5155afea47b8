"""What a command of the command line is."""

from typing import Protocol

from jsonargparse import ArgumentParser, Namespace


class Command(Protocol):
    """A module or object with these names."""

    HELP: str
    USAGE: str
    DESCRIPTION: str

    def add_arguments(self, parser: ArgumentParser, /) -> None:
        """Declare its flags."""
        ...

    def run(self, options: Namespace, /) -> None:
        """Do it."""
        ...
