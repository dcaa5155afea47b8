"""Configurations as they are written: flags of a command, and files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dynamicblocks.errors import ConfigurationError, StorageError, UsageError, brief, unknown_name
from dynamicblocks.options import Option
from dynamicblocks.options.bounded_yaml import read_yaml, yaml_value
from dynamicblocks.options.kind import NOTHING
from dynamicblocks.tasks.model import no_such_option
from dynamicblocks.tasks.option_table import OptionTable
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.task import Task

USUAL_TASK = "classify"

EXAMPLES_OF_LISTS: Mapping[tuple[type, ...], str] = {(int,): "[16,32]", (float,): "[0.5,1]", (str,): "[one,two]"}

Texts = tuple[str, ...]
"""What stands behind a flag."""


@dataclass(frozen=True)
class Written:
    """Options that somebody wrote: nested mappings, paths with dots, or both.

    Args:
        options: what was written; behind a flag, :data:`Texts`.
        file: where it was written; None on the command line.
        before: whether it is of the version that wrote down all options of all models, null for those not given.
    """

    options: Mapping[str, Any]
    file: Path | None = None
    before: bool = False

    def at(self, path: str) -> Any:
        """What was written for a path, if anything."""
        found: Any = None
        for key, value in self.options.items():
            if key == path:
                found = value[-1] if isinstance(value, tuple) and value else value
            elif isinstance(value, Mapping) and path.startswith(f"{key}."):
                inner = Written(value).at(path.removeprefix(f"{key}."))
                found = found if inner is None else inner
        return found

    def what(self, path: str) -> str:
        """How a message names an option."""
        return f"--{path}" if self.file is None else f"{path} in {self.file}"


def written_in_file(path: Path) -> tuple[Any, Written]:
    """How a configuration file names its task, None where it does not, and its options.

    Raises:
        StorageError: it cannot be read, or is no mapping.
    """
    written = read_yaml(path)
    if written is None:
        raise StorageError(f"{path} holds no options: nothing is written there, or comments alone")
    if not isinstance(written, dict):
        raise StorageError(f"{path} must hold a mapping of options, got {type(written).__name__}")
    options = of_this_version(written)
    return options.pop("task", None), Written(options, path, before="task" not in written)


def of_this_version(written: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as this version writes it.

    One without a task is of the version that knew one: it had label smoothing among the options of optimisers, reading
    processes among those of data.
    """
    options = {key: dict(value) if isinstance(value, Mapping) else value for key, value in written.items()}
    if "task" in options:
        return options
    for group, name, place in (("optimizer", "label_smoothing", None), ("data", "workers", "hardware")):
        if isinstance(options.get(group), dict) and name in options[group]:
            target = options if place is None else options.setdefault(place, {})
            target[name] = options[group].pop(name)
    return options


def written_as_flags(arguments: Sequence[str]) -> Written:
    """The flags among arguments, each with the texts behind it; of one that comes twice, the last. A - is a _ in names.

    >>> written_as_flags(["--model.widths", "8", "16", "--epochs=3", "--debug"]).options
    {'model.widths': ('8', '16'), 'epochs': ('3',), 'debug': ()}

    Raises:
        ConfigurationError: a text stands behind no flag.
    """
    found: dict[str, Any] = {}
    name = ""
    for token in arguments:
        if token.startswith("--"):
            flag, equals, text = token[2:].partition("=")
            name = flag.replace("-", "_")
            found.pop(name, None)
            found[name] = (text,) if equals else ()
        elif name:
            found[name] = (*found[name], token)
        else:
            raise UsageError(f"{brief(token)} stands behind no flag; options are written as --NAME VALUE")
    return Written({name: _nested(name, texts) for name, texts in found.items()})


def _nested(name: str, texts: Texts) -> Any:
    """Texts that are a mapping in YAML as one, such as ``{name: resnet20, unit: post}``."""
    text = " ".join(texts)
    if text.startswith("{"):
        try:
            found = yaml_value(text)
        except ConfigurationError as error:
            raise UsageError(f"--{name} cannot be read: {error}") from error
        return found if isinstance(found, dict) else texts
    return texts


def table_of(task: type[Task[Any]], sources: Sequence[Written]) -> OptionTable:
    """The options of a task, with those of the models named in the last of these sources that names one."""

    def written(path: str) -> Any:
        return next((name for source in reversed(sources) if (name := source.at(path)) is not None), None)

    return OptionTable(task, written)


def task_and_config(table: OptionTable, sources: Sequence[Written]) -> tuple[Task[Any], TrainConfig]:
    """The task and the configuration, of which later sources have more to say.

    Raises:
        ConfigurationError: an option that does not exist, a value of the wrong kind, or values that do not go together.
    """
    return table.make(values_of(table, sources))


def values_of(table: OptionTable, sources: Sequence[Written]) -> dict[str, Any]:
    """What was written, by path, each value as it is meant."""
    return {path: value for source in sources for path, value in _values(table, source, source.options, "")}


def _values(table: OptionTable, source: Written, options: Mapping[str, Any], inside: str) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        path = f"{inside}.{key}" if inside else str(key)
        what = source.what(path)
        option = table.options.get(path)
        if source.before and value is None and _left_out(table, path, option):
            continue
        if option is not None:
            yield path, _taken(option, value, what)
            if path.rpartition(".")[0] in table.models:
                _check_list(option, value, what)
        elif not any(other.startswith(f"{path}.") for other in table.options):
            raise _unknown(table, path, what)
        elif isinstance(value, Mapping):
            yield from _values(table, source, value, path)
        elif value is not None:  # which is a heading with nothing under it
            came = " ".join(value) if isinstance(value, tuple) else value
            raise UsageError(f"{what} expects options such as {{name: X}}, got {came!r:.80}")


def _taken(option: Option, value: Any, what: str) -> Any:
    """A value as it is meant. The texts behind a flag are one; a bare flag of a truth value means that it is true."""
    text = value
    if isinstance(value, tuple):
        if not value and bool not in option.kind.scalars:
            raise UsageError(f"{what} expects {option.kind.expected}, got nothing")
        text = (", " if option.kind.several else " ").join(value or ("true",))
    try:
        return option.take(text, what, texts=True)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None


def _check_list(option: Option, value: Any, what: str) -> None:
    """Raise where a list was written as a bare entry, which may be meant for every stage or for one."""
    kind = option.kind
    alone = kind.scalars or kind.choices or kind.free  # then an entry may be meant by itself
    if isinstance(value, tuple) and len(value) == 1 and kind.several and not alone:
        text = value[0].strip()
        if text and not set("[(,").intersection(text) and not (kind.none and text in NOTHING):
            example = EXAMPLES_OF_LISTS.get(kind.entries[0].scalars, "[a,b]")
            raise UsageError(
                f"{what} expects a list such as {example}, got {text!r:.80}; one alone is written [{text:.80}]"
            )


def _left_out(table: OptionTable, path: str, option: Option | None) -> bool:
    """Whether null means that an option of a model is not given: but where nothing is a value of its own."""
    of_a_model = path.rpartition(".")[0] in table.models
    return of_a_model and not (option is not None and option.kind.none and option.default is not None)


def _unknown(table: OptionTable, path: str, what: str) -> ConfigurationError:
    """The error for an option that there is not: it says who has it, or what is nearest."""
    part, _, name = path.rpartition(".")
    if part in table.models:
        return no_such_option(table.models[part], name, what)
    others = [other for other in tasks if path in OptionTable(tasks[other]).options]  # type: ignore[arg-type]
    if others:
        return ConfigurationError(
            f"{what}: the task {table.task.name!r} has no option {path!r}; tasks that have it: {', '.join(others)}"
        )
    known = [other.removeprefix(f"{part}.") for other in table.options if other.rpartition(".")[0] == part]
    if part and known:
        return UsageError(f"{what}: {unknown_name(f'option of {part}', name, known)}")
    near = _meant(path, list(table.options))
    hint = f"; did you mean {near!r}?" if near else "."
    return UsageError(f"{what}: there is no such option{hint} All of them: dynamicblocks train --help")


def _meant(path: str, options: Sequence[str]) -> str | None:
    """The option that somebody may have meant: what was written begins it, has its first word, or is like it."""
    name = path.rpartition(".")[2]
    word = name.partition("_")[0]
    # Those with few dots first: of every training rather than of a part of it.
    by_depth = sorted(options, key=lambda option: (option.count("."), len(option)))
    last = {option.rpartition(".")[2]: option for option in reversed(by_depth)}
    begun = [option for option in by_depth if path and option.startswith(path) and "." not in option.removeprefix(path)]
    if "." not in path:
        begun += [last[each] for each in last if len(name) > 1 and each.startswith(name)]
    alike = get_close_matches(path, options, n=1, cutoff=0.75)
    if len(word) > 2:
        alike += [option for option in by_depth if option.rpartition(".")[2].startswith(word)]
    alike += get_close_matches(path, options, n=1) + [last[each] for each in get_close_matches(name, last, n=1)]
    return next(iter([*begun, *alike]), None)
