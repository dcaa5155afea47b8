"""Options with types of their own: those of a configuration, lists, files of either."""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from dynamicblocks.cli.command import Command


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Types and defaults beside the flags, and descriptions as they were written."""


def typed_options(name: str, command: Command, arguments: Sequence[str]) -> Namespace:
    """The options of a command among the arguments behind its name; it ends the program where they are wrong."""
    parser = ArgumentParser(
        prog=f"dynamicblocks {name}",
        usage=command.USAGE,
        description=command.DESCRIPTION,
        formatter_class=HelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.instantiate(parser.parse_args(list(arguments)))
