"""``dynamicblocks completion``: scripts by which a shell completes commands, flags and names.

They hold the words themselves, so that a shell asks no program that imports PyTorch at each key.
"""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Literal

from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.options.kind import Kind

USAGE = "dynamicblocks completion SHELL"
DESCRIPTION = """Print a script that completes commands, flags and names in bash, zsh or fish.

bash: add  source <(dynamicblocks completion bash)  to ~/.bashrc; a file that holds the script loads faster.
zsh:  add  source <(dynamicblocks completion zsh)  to ~/.zshrc, behind compinit.
fish: dynamicblocks completion fish > ~/.config/fish/completions/dynamicblocks.fish

Example: dynamicblocks completion bash"""

Words = Mapping[str, Mapping[str, Sequence[str]]]
"""For each command its flags, and for each flag the values that are known; of a name that stands alone, under ""."""


def add_arguments(parser: Arguments) -> None:
    """The shell."""
    parser.add_argument("shell", type=Literal["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")


def run(options: Namespace) -> None:
    """Print its script."""
    writers: Mapping[str, Callable[[Words], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    print(writers[options.shell](words()), end="")


def words() -> Words:
    """What there is to complete."""
    from dynamicblocks.cli.main import COMMANDS
    from dynamicblocks.integrators import METHODS, list_integrators, other_methods
    from dynamicblocks.models import list_models

    values: dict[str, Sequence[str]] = {
        "integrator": list_integrators(),
        "model.integrator": list_integrators(),
        "model.name": list_models(),
    }
    found: dict[str, dict[str, Sequence[str]]] = {}
    for name, entry in COMMANDS.items():
        if name == "train":
            found[name] = _flags_of_train(values)
            continue
        module = import_module(f"dynamicblocks.cli.{entry.module}")
        declared = Arguments(name, "", "")
        getattr(module, entry.name, module).add_arguments(declared)
        found[name] = {
            f"--{flag}" if argument.flag else "": _choices(argument.option.kind) or values.get(flag, ())
            for flag, argument in declared.known.items()
        } | {"--debug": ()}
    found["models"][""] = list_models()
    found["methods"][""] = [*METHODS, *other_methods()]
    return found


def _flags_of_train(values: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """The flags of a training of images, whatever its model, with the values of those that have few."""
    from dynamicblocks.cli.train import command_for
    from dynamicblocks.models import list_models
    from dynamicblocks.tasks import tasks
    from dynamicblocks.tasks.model import options_of_model
    from dynamicblocks.training.loggers import NEEDED

    command, _ = command_for([])
    parser = ArgumentParser(add_help=False)
    command.add_arguments(parser)
    options = {f"model.{name}": option for model in list_models() for name, option in options_of_model(model).items()}
    options |= command.table.options
    known = {**values, "task": list(tasks), "table": ("full", "few", "none"), "logger": tuple(NEEDED)}
    flags = {flag.removeprefix("--") for action in parser._actions for flag in action.option_strings}
    choices: dict[str, Sequence[str]] = {flag: _choices(option.kind) for flag, option in options.items()}
    return {f"--{flag}": known.get(flag) or choices.get(flag, ()) for flag in sorted({*flags, *options, "debug"})}


def _choices(kind: Kind) -> list[str]:
    """The values of an option that has few."""
    truth = ["true", "false"] if bool in kind.scalars else []
    return [*map(str, kind.choices), *truth]


def bash(found: Words) -> str:
    """The script for bash."""
    cases = _cases(found, "words", lambda values: shlex.quote(" ".join(values)))
    flags_of = _flags_of(found, lambda values: shlex.quote(" ".join(values)))
    return f"""_dynamicblocks() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
    local words="" flags="" names=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W {shlex.quote(" ".join([*found, "--help", "--version"]))} -- "$current"))
        return
    fi
    case "$command:$before" in
{cases}
    esac
    case "$command" in
{flags_of}
    esac
    if [ -z "$words" ]; then
        case "$current" in
            -*) words="$flags --help" ;;
            *) [ "$COMP_CWORD" -eq 2 ] && words="$names" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _dynamicblocks dynamicblocks
"""


def zsh(found: Words) -> str:
    """The script for zsh."""
    cases = _cases(found, "known", lambda values: f"({_listed(values)})")
    flags_of = _flags_of(found, lambda values: f"({_listed(values)})")
    return f"""#compdef dynamicblocks
_dynamicblocks() {{
    local command="$words[2]" before="$words[CURRENT-1]"
    local -a known flags names
    if (( CURRENT == 2 )); then
        compadd -- {_listed([*found, "--help", "--version"])}
        return
    fi
    case "$command:$before" in
{cases}
    esac
    case "$command" in
{flags_of}
    esac
    if (( $#known )); then
        compadd -a known
    elif [[ "$words[CURRENT]" == -* ]]; then
        compadd -- $flags --help
    elif (( CURRENT == 3 && $#names )); then
        compadd -a names
    else
        _files
    fi
}}
compdef _dynamicblocks dynamicblocks
"""


def fish(found: Words) -> str:
    """The script for fish."""
    from dynamicblocks.cli.main import COMMANDS

    lines = [
        f"complete -c dynamicblocks -n __fish_use_subcommand -f -a {command} -d {shlex.quote(COMMANDS[command].help)}"
        for command in found
    ]
    for command, flags in found.items():
        inside = f"complete -c dynamicblocks -n '__fish_seen_subcommand_from {command}'"
        for flag, values in flags.items():
            some = f" -x -a {shlex.quote(' '.join(values))}" if values else ""
            if flag:
                lines.append(f"{inside} -l {flag.removeprefix('--')}{some}")
            elif values:
                lines.append(f"{inside} -f -a {shlex.quote(' '.join(values))}")
    return "\n".join(lines) + "\n"


def _cases(found: Words, variable: str, written: Callable[[Sequence[str]], str]) -> str:
    """Branches of a case statement: the values behind a flag of a command."""
    return "\n".join(
        f"        {command}:{flag}) {variable}={written(values)} ;;"
        for command, flags in found.items()
        for flag, values in flags.items()
        if flag and values
    )


def _flags_of(found: Words, written: Callable[[Sequence[str]], str]) -> str:
    """Branches of a case statement: the flags of a command, and the names that stand alone behind it."""
    return "\n".join(
        f"        {command}) flags={written([flag for flag in flags if flag])}; names={written(flags.get('', ()))} ;;"
        for command, flags in found.items()
    )


def _listed(values: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, values))
