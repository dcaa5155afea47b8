"""``dynamicblocks``: the commands, and what becomes of their errors."""

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from rich.console import Console

from dynamicblocks import __version__
from dynamicblocks.cli import compress, converge, evaluate, listing, operators, published, train
from dynamicblocks.cli.command import Command
from dynamicblocks.errors import ConfigurationError, DynamicBlocksError

COMMANDS: dict[str, Command] = {
    "train": train,
    "evaluate": evaluate,
    "converge": converge,
    "compress": compress,
    "operators": operators,
    "models": listing.models_command,
    "integrators": listing.integrators_command,
    "methods": listing.methods_command,
}

DESCRIPTION = "Residual networks as differential equations: train, evaluate, compress and list them."

USAGE_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Types and defaults beside the flags, and descriptions as they were written."""


def make_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = ArgumentParser(
        prog="dynamicblocks", description=DESCRIPTION, version=__version__, formatter_class=HelpFormatter
    )
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, command in COMMANDS.items():
        sub = ArgumentParser(description=command.DESCRIPTION, usage=command.USAGE)
        command.add_arguments(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        subcommands.add_subcommand(name, sub, help=command.HELP)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = make_parser()
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    written = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in written
    try:
        if written[:1] == ["train"]:
            written = ["train", *published.rewritten(written[1:])]
        parsed = parser.parse_args(written)
        options = parser.instantiate(parsed)
        COMMANDS[options.command].run(options[options.command])
    except DynamicBlocksError as error:
        if debug:
            raise
        errors.print(f"error: {error}", style="red", markup=False)
        return USAGE_ERROR if isinstance(error, ConfigurationError) else FAILURE
    except KeyboardInterrupt:
        errors.print("interrupted; a training goes on from its last checkpoint with: dynamicblocks train --resume RUN")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
