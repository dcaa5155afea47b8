"""``dynamicblocks``: the commands, and what becomes of their errors.

A command's module is imported when that command is run: the list of them and the version need neither torch nor the
extra ``train``, and the listings do without the extra.
"""

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NamedTuple

from dynamicblocks import __version__
from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.command import Command
from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, MissingPackageError, UsageError, nearest
from dynamicblocks.extras import needed_for
from dynamicblocks.interruption import (
    INTERRUPTED,
    Interrupted,
    at_once,
    broken_off,
    check,
    conclude,
    listening,
    speaks,
)
from dynamicblocks.processes import first_says_so
from dynamicblocks.visible import on_one_line


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
    "train": Entry("train a network: on images, masks, fields, series, events, or a task of your own", "train"),
    "predict": Entry("say what a trained network sees in files", "predict"),
    "sample": Entry("draw new samples from what a run has learnt, such as time series", "sample"),
    "runs": Entry("list trained and unfinished runs with their figures, and what differs among them", "runs"),
    "evaluate": Entry("evaluate a trained network, perhaps under another integrator or grid", "evaluate"),
    "converge": Entry("the trained weights under every integrator and step count: the convergence test", "converge"),
    "compress": Entry("make a trained network cheaper at the same accuracy", "compress"),
    "operators": Entry(
        "the kernels of a trained network as differential operators, and the vector fields of its twists", "operators"
    ),
    "models": Entry("list the networks, or the options of one", "listing", "models_command"),
    "integrators": Entry("list the integrators", "listing", "integrators_command"),
    "methods": Entry("list the methods of odeint and solve, or the options of one", "listing", "methods_command"),
    "completion": Entry("print a script that completes commands, flags and names in a shell", "completion"),
}

DESCRIPTION = "Residual networks as differential equations: train, evaluate, compress and list them."
EXAMPLES = """examples:
  dynamicblocks train
  dynamicblocks train --model.name resnet20 --model.unit post --epochs 20
  dynamicblocks train --task series
  dynamicblocks models
  dynamicblocks COMMAND --help

exit codes:
  0    done
  1    failed: a file, a device, numbers that are not finite
  2    wrong usage: what was written cannot be
  130  interrupted by Ctrl-C
  143  asked to end by SIGTERM or SIGUSR1
Errors are one line on the standard error; with --debug behind the command the traceback is shown too."""

HELP = {"-h", "--help"}

USAGE_ERROR = 2
FAILURE = 1


def make_parser() -> argparse.ArgumentParser:
    """The parser of the name of a command, which shows them all."""
    parser = argparse.ArgumentParser(
        prog="dynamicblocks",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dynamicblocks {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    for name, entry in COMMANDS.items():
        commands.add_parser(name, help=entry.help, add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted.

    Args:
        arguments: of the command line; None where the process is this program's and ends with it.
    """
    with listening():
        code = FAILURE
        try:
            if arguments is None and isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what is no text
            code = _main(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else FAILURE
            raise
        except Interrupted as interrupted:
            code = interrupted.code
            _say(str(interrupted))
        except KeyboardInterrupt:  # of a library that raises its own
            code = INTERRUPTED
            _say("interrupted")
        finally:
            if arguments is None:
                conclude(code)
        return code


def _main(written: list[str]) -> int:
    try:
        run = _command(written)
        check()
        run()
        sys.stdout.flush()
    except Exception as error:
        _interrupted_by(error)
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return FAILURE
        if "--debug" in written[1:]:
            raise
        _say(f"error: {_line(error)}", colour="31")
        if isinstance(error, UsageError):
            sys.exit(USAGE_ERROR)
        wrong = isinstance(error, ConfigurationError) and not isinstance(error, MissingPackageError)
        return USAGE_ERROR if wrong else FAILURE
    return 0


def _interrupted_by(error: Exception) -> None:
    """A library may take a signal's exception for one of its own, such as a module that cannot be imported."""
    asked = broken_off()
    if asked is not None:
        raise Interrupted(asked) from error


def _command(written: list[str]) -> Callable[[], None]:
    """What the arguments ask for, once they are read.

    Raises:
        UsageError: there is no such command, or it has no such options.
    """
    name, rest = (written[0], written[1:]) if written else ("", [])
    if name not in COMMANDS:
        if name in HELP or name == "--version":
            make_parser().parse_args([name])
        if not name:
            raise UsageError(
                f"a command is missing; usage: dynamicblocks {{{','.join(COMMANDS)}}} ...; for example: dynamicblocks "
                "train; more: dynamicblocks --help"
            )
        near = nearest(name, COMMANDS)
        hint = f"; did you mean {near!r}?" if near else "."
        raise UsageError(f"invalid choice: {name!r} is no command{hint} Commands: {', '.join(COMMANDS)}")
    entry = COMMANDS[name]
    with needed_for(f"dynamicblocks {name}"):
        with at_once():
            module: Any = import_module(f"dynamicblocks.cli.{entry.module}")
        if name == "train":
            train, flags = module.command_for([token for token in rest if token not in HELP])
            if not HELP.isdisjoint(rest):
                print(train.help(), end="")
                sys.exit(0)
            return partial(train.run, flags)
    command: Command = getattr(module, entry.name) if entry.name else module
    declared = Arguments(name, command.USAGE, command.DESCRIPTION)
    command.add_arguments(declared)
    declared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return partial(command.run, declared.read(rest))


def _line(error: Exception) -> str:
    """What is said of an error: one line, whatever it says itself."""
    said = " ".join(str(error).split("\n")).strip()
    if isinstance(error, DynamicBlocksError):
        return said
    own = sys.modules.get("dynamicblocks.tasks.own")
    place = own and own.own_line(error)
    name = type(error).__name__
    if place:
        said = f"{place}: {name}: {said}"
    elif isinstance(error, OSError) and error.strerror:
        files = [str(file) for file in (error.filename, error.filename2) if file is not None]
        said = ": ".join([error.strerror, " -> ".join(files)] if files else [error.strerror])
    elif isinstance(error, MemoryError) or name == "OutOfMemoryError":
        said = f"there is not enough memory; take smaller batches or a smaller network ({said or name})"
    elif isinstance(error, RecursionError):
        said = f"something is nested too deeply ({said})"
    else:
        said = f"{name}: {said}".rstrip(": ")
    return f"{said:.500}; --debug shows the traceback"


def _nobody_reads() -> bool:
    """Whether the standard output is a pipe that was closed, as by `| head`; what is left for it is then dropped."""
    try:
        place, poll = sys.stdout.fileno(), select.poll()
        poll.register(place, select.POLLOUT)
        if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            return False
        os.dup2(os.open(os.devnull, os.O_WRONLY), place)
    except (OSError, ValueError, AttributeError):  # it is no file, or the system has no poll
        return False
    return True


def _say(message: str, colour: str = "") -> None:
    if not message or (first_says_so() if colour else not speaks()):
        return
    line = on_one_line(message)
    coloured = colour and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[{colour}m{line}\033[0m" if coloured else line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
