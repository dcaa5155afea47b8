"""``dynamicblocks``: the commands, and what becomes of their errors.

A command's module is imported when that command is run: the list of them and the version need neither torch nor the
extra ``train``, and the listings do without the extra.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from dynamicblocks import __version__
from dynamicblocks.cli.command import Command
from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, MissingPackageError, UsageError
from dynamicblocks.extras import needed_for
from dynamicblocks.interruption import INTERRUPTED, Interrupted, listening


class Entry(NamedTuple):
    """A command in the list.

    Args:
        help: what it does, in a line.
        module: of this package, which has it or is it.
        name: in that module.
    """

    help: str
    module: str
    name: str = ""


COMMANDS = {
    "train": Entry("train a network: on images, masks, fields, or a task of your own", "train"),
    "evaluate": Entry("evaluate a trained network, perhaps under another integrator or grid", "evaluate"),
    "converge": Entry("the trained weights under every integrator and step count: the convergence test", "converge"),
    "compress": Entry("make a trained network cheaper at the same accuracy", "compress"),
    "operators": Entry(
        "the kernels of a trained network as differential operators, and the vector fields of its twists", "operators"
    ),
    "models": Entry("list the networks, or the options of one", "listing", "models_command"),
    "integrators": Entry("list the integrators", "listing", "integrators_command"),
    "methods": Entry("list the methods of odeint and solve, or the options of one", "listing", "methods_command"),
}

DESCRIPTION = "Residual networks as differential equations: train, evaluate, compress and list them."
EXAMPLES = """examples:
  dynamicblocks train
  dynamicblocks train --model.name resnet20 --model.unit post --epochs 20
  dynamicblocks models
  dynamicblocks COMMAND --help"""

HELP = {"-h", "--help"}

USAGE_ERROR = 2
FAILURE = 1


def make_parser() -> argparse.ArgumentParser:
    """The parser of the name of a command."""
    parser = argparse.ArgumentParser(
        prog="dynamicblocks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dynamicblocks {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    for name, entry in COMMANDS.items():
        commands.add_parser(name, help=entry.help, add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted."""
    try:
        with listening():
            return _main(arguments)
    except Interrupted as interrupted:
        _say(str(interrupted))
        return interrupted.code
    except KeyboardInterrupt:  # of a library that raises its own
        _say("interrupted")
        return INTERRUPTED


def _main(arguments: Sequence[str] | None) -> int:
    written = list(sys.argv[1:] if arguments is None else arguments)
    name = written[0] if written[:1] and written[0] in COMMANDS else make_parser().parse_args(written).command
    rest = written[written.index(name) + 1 :]
    try:
        command, options = _loaded(name, rest)
        command.run(options)
    except DynamicBlocksError as error:
        if "--debug" in rest:
            raise
        _say(f"error: {error}", colour="31")
        if isinstance(error, UsageError):
            sys.exit(USAGE_ERROR)  # as the parsers of the other commands do
        wrong = isinstance(error, ConfigurationError) and not isinstance(error, MissingPackageError)
        return USAGE_ERROR if wrong else FAILURE
    except Exception as error:
        own = sys.modules.get("dynamicblocks.tasks.own")
        line = own and own.own_line(error)
        if "--debug" in rest or not line:
            raise
        _say(f"error: {line}: {type(error).__name__}: {error}; --debug shows the traceback", colour="31")
        return FAILURE
    return 0


def _loaded(name: str, arguments: list[str]) -> tuple[Command, Any]:
    """A command, and its options among the arguments behind its name."""
    entry = COMMANDS[name]
    with needed_for(f"dynamicblocks {name}"):
        module: Any = import_module(f"dynamicblocks.cli.{entry.module}")
        if name == "train":
            command, options = module.command_for([token for token in arguments if token not in HELP])
            if HELP.intersection(arguments):
                _parser(name, command).parse_args(["--help"])
            return command, options
        if not entry.name:
            from dynamicblocks.cli.typed import typed_options

            return module, typed_options(name, module, arguments)
    listing: Command = getattr(module, entry.name)
    return listing, _parser(name, listing).parse_args(arguments)


def _parser(name: str, command: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"dynamicblocks {name}",
        usage=command.USAGE,
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _say(message: str, colour: str = "") -> None:
    coloured = colour and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[{colour}m{message}\033[0m" if coloured else message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
