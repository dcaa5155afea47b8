"""The arguments of a command: declared one by one, read by the rules of `dynamicblocks train`, shown by --help.

Names are written whole: the beginning of one is no flag, for it would mean another one as soon as there is another one.
What begins with one - is a value, so that ``--tolerance -1%`` is told what is right.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from dynamicblocks.errors import ConfigurationError, MissingPackageError, StorageError, UsageError, nearest
from dynamicblocks.options import NONE, Option, kind_of

HELP = ("-h", "--help")
SWITCH = "store_true"


class Formatter(RawDescriptionHelpFormatter):
    """Prose is as wide as the terminal; a line with a command stays whole, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        whole = ("Example: ", " ")
        return "\n".join(
            indent + line
            if line.startswith(whole)
            else fill(line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            for line in lines
        )


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Args:
        option: its name, kind, default and help; without a default it must be given.
        metavar: what stands for its value in the help.
        flag: whether it is written --NAME VALUE; else by its place alone.
        switch: whether it is a flag without a value.
        apart: whether each text is a value of its own, such as a path, which may hold commas.
        check: makes of the value what the command wants, or raises.
    """

    option: Option
    metavar: str
    flag: bool
    switch: bool = False
    apart: bool = False
    check: Callable[[Any], Any] = lambda value: value

    @property
    def what(self) -> str:
        """How a message names it."""
        return f"--{self.option.name}" if self.flag else self.metavar

    def take(self, texts: Sequence[str]) -> Any:
        """The value that somebody wrote.

        Raises:
            UsageError: it cannot be read.
            DynamicBlocksError: it is not what the command wants.
        """
        kind = self.option.kind
        if not texts:
            raise UsageError(f"{self.what} expects {kind.expected}, got nothing")
        try:
            if self.apart:
                value = [kind.entries[0].take(text, texts=True) for text in texts]
            else:
                between = ", " if kind.several else " "
                value = kind.take(between.join(text.removesuffix(",") for text in texts), texts=True)
        except (ValueError, OverflowError):
            raise UsageError(f"{self.what} expects {kind.expected}, got {' '.join(texts)!r:.80}") from None
        if kind.several and value is not None and not value:
            raise UsageError(f"{self.what} expects {kind.expected}, got an empty list")
        try:
            return self.check(value)
        except MissingPackageError:
            raise
        except (ConfigurationError, StorageError) as error:
            raise type(error)(self._about(str(error))) from error

    def _about(self, said: str) -> str:
        """What was said of its value, with its name where that is one."""
        if not self.flag:
            return said
        return f"{self.what}{said.removeprefix('it')}" if said.startswith("it ") else f"{self.what}: {said}"


class Arguments:
    """The arguments of a command.

    Args:
        name: of the command.
        usage: how it is called.
        description: what it does, with an example.
    """

    def __init__(self, name: str, usage: str, description: str) -> None:
        self.name, self.usage, self.description = name, usage, description
        self._known: dict[str, Argument] = {}

    def add_argument(
        self,
        name: str,
        *,
        type: Any = str,
        default: Any = NONE,
        nargs: str | None = None,
        action: str | None = None,
        metavar: str = "",
        help: str = "",
        check: Callable[[Any], Any] | None = None,
    ) -> None:
        """Declare one, as :class:`argparse.ArgumentParser` would have it.

        Args:
            name: with -- if it is a flag.
            type: as an annotation: ``int``, ``str | None``, ``list[float]``, ``Literal["a", "b"]``.
            default: of a flag, None if it is left out; what stands by its place must be given unless it has one.
            nargs: ``+`` for several of a type, ``?`` for what may be left out.
            action: ``store_true`` for a flag without a value.
            metavar: what stands for the value in the help.
            help: what it is.
            check: makes of the value what the command wants, or raises.
        """
        flag = name.startswith("--")
        key = name.removeprefix("--").replace("-", "_")
        kind = kind_of(list[type] if nargs in ("+", "*") else type)
        if default is NONE and (flag or nargs in ("?", "*")):
            default = False if action == SWITCH else None
        option = Option(key, kind, default, help)
        self._known[key] = Argument(
            option,
            metavar or key.upper(),
            flag,
            switch=action == SWITCH,
            apart=nargs in ("+", "*"),
            check=check or (lambda value: value),
        )

    @property
    def known(self) -> Mapping[str, Argument]:
        """The arguments by name."""
        return self._known

    def read(self, tokens: Sequence[str]) -> Namespace:
        """What somebody wrote; after --help the program ends.

        Raises:
            UsageError: a flag that there is not, a value that cannot be read, or one that is missing.
        """
        if not set(HELP).isdisjoint(tokens):
            print(self.help(), end="")
            sys.exit(0)
        written: dict[str, list[str]] = {}
        placed: list[str] = []
        rest = list(tokens)
        while rest:
            token = rest.pop(0)
            if not token.startswith("--"):
                placed.append(token)
                continue
            flag, equals, text = token[2:].partition("=")
            argument = self._flag(flag)
            name = argument.option.name
            if name in written and argument.option.kind.several:
                raise UsageError(f"--{name} is given twice; write all that it is to have behind one of the two")
            if argument.switch:
                if equals:
                    raise UsageError(f"--{name} takes no value, got {text!r}")
                written[name] = []
            else:
                written[name] = [text] if equals else list(_texts_behind(argument, rest))
        values = {name: self._known[name].switch or self._known[name].take(texts) for name, texts in written.items()}
        values = {**self._by_place(placed), **values}
        usual = {name: known.option.default for name, known in self._known.items()}
        return Namespace(**{**usual, **values})

    def help(self) -> str:
        """The text of --help."""
        parser = ArgumentParser(
            prog=f"dynamicblocks {self.name}",
            usage=_escaped(self.usage),
            description=_escaped(self.description),
            formatter_class=Formatter,
        )
        for argument in self._known.values():
            option = argument.option
            if argument.switch:
                parser.add_argument(argument.what, action="store_true", help=_escaped(option.help))
                continue
            default = "" if option.default in (NONE, None) else f", default: {option.shown_default}"
            text = _escaped(f"{option.help} (type: {option.kind.written}{default})")
            name = argument.what if argument.flag else option.name
            parser.add_argument(name, metavar=argument.metavar, help=text, default=SUPPRESS)
        return parser.format_help()

    def _flag(self, written: str) -> Argument:
        name = written.replace("-", "_")
        found = self._known.get(name)
        if found is not None and found.flag:
            return found
        flags = [known for known, argument in self._known.items() if argument.flag]
        near = nearest(name, flags)
        hint = f"; did you mean --{near}?" if near else "."
        has = ", ".join(f"--{flag}" for flag in flags)
        raise UsageError(f"--{written}: dynamicblocks {self.name} has no such option{hint} It has {has}")

    def _by_place(self, placed: Sequence[str]) -> Mapping[str, Any]:
        """What stands by its place alone; the last argument may take several."""
        values, rest = {}, list(placed)
        for name, argument in self._known.items():
            if argument.flag:
                continue
            several = argument.option.kind.several
            texts, rest = (rest, []) if several else (rest[:1], rest[1:])
            if texts:
                values[name] = argument.take(texts)
            elif argument.option.default is NONE:
                raise UsageError(
                    f"{argument.metavar} is missing, {argument.option.help}; usage: {self.usage}; for example: "
                    f"{self._example()}"
                )
        if rest:
            raise UsageError(f"{' '.join(rest)!r:.80} stands behind no flag; usage: {self.usage}")
        return values

    def _example(self) -> str:
        return self.description.partition("Example: ")[2].partition("\n")[0]


def _texts_behind(argument: Argument, rest: list[str]) -> Iterator[str]:
    """The texts of a flag, taken off ``rest``: one, or a list, which ends with its bracket or before the next flag."""
    several = argument.option.kind.several
    in_brackets = several and not argument.apart and bool(rest) and rest[0].startswith("[")
    depth = 0
    while rest and not rest[0].startswith("--"):
        text = rest.pop(0)
        yield text
        depth += text.count("[") - text.count("]")
        if not several or (in_brackets and depth <= 0):
            return


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
