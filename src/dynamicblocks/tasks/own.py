"""Tasks of one's own: a class in a file that the caller names.

Only what the caller names is ever imported. A run stores the name of the class and the hash of the file, never where
the file lies, so a run folder from elsewhere cannot make anybody's program import something.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from dynamicblocks.errors import ConfigurationError, StorageError, raised_at, unknown_name
from dynamicblocks.tasks.plain_options import is_plain, types_of
from dynamicblocks.tasks.registry import named_task, tasks
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.task import Figure, Task

FORM = "FILE.py:Name"
# How the names of modules begin that were read from such a file.
PRIVATE = "_dynamicblocks_own_"
# Flags of `dynamicblocks train` that are no fields of the configuration.
OTHER_FLAGS = ("config", "debug", "fast", "help", "logger", "quiet", "resume", "table", "task")


def is_own(text: str) -> bool:
    """Whether a task is asked for by its file.

    >>> is_own("waves.py:Waves"), is_own("classify")
    (True, False)
    """
    return ":" in text or text.endswith(".py")


def asked_task(text: str) -> type[Task[Any]] | None:
    """The task that somebody asks for: by its name, or ``FILE.py:Name``.

    Where the file holds an equation or the field of a flow, that is read and there is no task: a run says itself which
    it is of.
    """
    if not is_own(text):
        return named_task(text)
    # Such parts are made of what is here.
    from dynamicblocks.tasks.own_equation import own_equation
    from dynamicblocks.tasks.own_parts import is_part

    module, name, _ = own_module(text, "a task")
    if is_part(vars(module).get(name)):
        own_equation(text)
        return None
    return own_task(text)


def own_module(text: str, what: str) -> tuple[ModuleType, str, bytes]:
    """The file of ``FILE.py:Name`` as a module, the name, and what stands in the file.

    Raises:
        ConfigurationError: it cannot be read or run; the message says why, and the line where there is one.
    """
    file, _, name = text.rpartition(":")
    if not file or not name:
        kind = what.removeprefix("an ").removeprefix("a ")
        there = "a class" if kind == "task" else "a function or a module"
        raise ConfigurationError(f"{what} of one's own is given as {FORM}, a file and {there} in it, got {text!r}")
    path = Path(file).resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        kind = what.removeprefix("an ").removeprefix("a ")
        raise ConfigurationError(f"the file of the {kind} {text!r} cannot be read: {error.strerror}: {path}") from error
    # Code and hash are of the same bytes: a cache of compiled code could be older than the file.
    return _module(path, source), name, source


def own_task(text: str) -> type[Task[Any]]:
    """The class of a task, ``FILE.py:Name``, with the file's hash in its ``source_hash``.

    The file is run as a module of its own. What lies beside it can be imported meanwhile, as by a program there.

    Args:
        text: the file, seen from the working directory, and the name of the class in it.

    Raises:
        ConfigurationError: it is no task that could be trained; the message says why, and the line where there is one.
    """
    module, name, source = own_module(text, "a task")
    file, path = text.rpartition(":")[0], Path(str(module.__file__))
    if name not in vars(module):
        known = [each for each, found in vars(module).items() if _is_task(found) and _is_of(module, found)]
        if not known:
            raise ConfigurationError(f"{file} holds no task: a task is a dataclass derived from {_home(Task)}")
        raise unknown_name(f"task in {file}", name, known)
    found = getattr(module, name)
    _check_class(text, module, found)
    found.source_hash, found.asked_as = hashlib.sha256(source).hexdigest(), text
    _check_fields(text, found)
    with _errors_of(path):
        figures: Any = found().figures
    if not (isinstance(figures, tuple) and figures and all(isinstance(each, Figure) for each in figures)):
        raise ConfigurationError(f"the figures of {text} must be a tuple of {_home(Figure)}, got {figures!r}")
    if figures[0].name != "loss":
        raise ConfigurationError(f"the first of the figures of {text} must be called loss, got {figures[0].name!r}")
    return found


def task_of_run(reference: Any, own: type[Task[Any]] | None, run: Path) -> type[Task[Any]]:
    """The task that a run names in its files, which is ``own`` where it was read from a file.

    Raises:
        ConfigurationError: the run is of another task than ``own``, or needs one and there is none.
        StorageError: what stands there names no task.
    """
    if isinstance(reference, str) and reference in tasks:
        found = named_task(reference)
        if own not in (None, found):
            raise ConfigurationError(f"{run} is of the task {reference!r}, not of {own.__name__}; leave out --task")
        return found
    if not isinstance(reference, Mapping) or not all(isinstance(reference.get(key), str) for key in ("name", "sha256")):
        known = f"known are {', '.join(tasks)}, and one of your own is given by --task {FORM} alone"
        raise StorageError(f"{run} names no task that there is, {reference!r}: {known}")
    name = reference["name"]
    if not name.isidentifier():
        raise StorageError(f"{run} names no task that there is: {name!r} is no name of a class")
    if own is None:
        raise ConfigurationError(
            f"{run} is of a task of its own, {name}, and where its file lies is not recorded; add --task "
            f"FILE.py:{name} with the file that it was trained with (SHA-256 {reference['sha256']:.12}...)"
        )
    if own.source_hash is None or own.__name__ != name:
        raise ConfigurationError(f"{run} is of the task {name}, not of {own.__name__}; add --task FILE.py:{name}")
    return own


def changed_since(reference: Any, own: type[Task[Any]] | None) -> str:
    """A note where the file of a task is no longer the one that a run was made with, and else nothing.

    It is no error, not even where a run is resumed: whoever mends what failed at the end of a long training wants that
    training. What the run then is of, its record says.
    """
    if own is None or not isinstance(reference, Mapping) or reference.get("sha256") == own.source_hash:
        return ""
    return (
        f"the file of the task {own.__name__} has changed since the run began (SHA-256 then "
        f"{reference.get('sha256')!s:.12}, now {own.source_hash:.12}), so numbers may differ from those of before"
    )


def own_line(error: BaseException) -> str | None:
    """Where in a file of a task of one's own an error was raised; None where it was raised elsewhere."""
    files = {vars(module)["__file__"] for name, module in list(sys.modules.items()) if name.startswith(PRIVATE)}
    place = raised_at(error, files)
    return place and f"{place[0]}, line {place[1]}"


def _module(path: Path, source: bytes) -> ModuleType:
    """The file as a module under a private name; the same one as before where nothing has changed."""
    private = f"{PRIVATE}{hashlib.sha256(bytes(path) + source).hexdigest()[:16]}"
    if private in sys.modules:
        return sys.modules[private]
    module = ModuleType(private)
    module.__file__ = str(path)
    sys.modules[private] = module  # there dataclasses look up the types of their fields
    search = list(sys.path)
    sys.path.insert(0, str(path.parent))
    try:
        with _errors_of(path):
            exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except BaseException:
        del sys.modules[private]
        raise
    finally:
        sys.path[:] = search
    return module


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Whatever goes wrong in a file, as one error that names the line."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a program may end itself, too
        place = raised_at(error, {str(path)})
        if isinstance(error, SyntaxError) and error.filename == str(path):
            place = (str(path), error.lineno or 0)
        where = f"{path}, line {place[1]}" if place else str(path)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigurationError(f"{where}: {type(error).__name__}: {said}".rstrip(": ")) from error


def _check_class(text: str, module: ModuleType, found: Any) -> None:
    """Raise unless it is the class of a task, written in this file."""
    if not _is_task(found):
        raise ConfigurationError(f"{text} is no task: a task is a dataclass derived from {_home(Task)}, got {found!r}")
    if not _is_of(module, found):
        raise ConfigurationError(
            f"{text} is imported there from {found.__module__}; derive a class of your own from it, so that the hash "
            "of the file says what was trained"
        )
    if "__dataclass_fields__" not in vars(found):
        raise ConfigurationError(f"{text} is no dataclass; put @dataclass(frozen=True) over it")
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise ConfigurationError(f"{text} lacks {', '.join(missing)}, which every task has")


def _check_fields(text: str, found: type[Task[Any]]) -> None:
    """Raise for options that hide something else, or that must be given before a task can be made."""
    names = [each.name for each in fields(found)]  # type: ignore[arg-type]
    hiding = [name for name in names if name == "name" or hasattr(Task, name)]
    if hiding:
        raise ConfigurationError(f"the option {hiding[0]!r} of {text} hides Task.{hiding[0]}; call it otherwise")
    common = {each.name for each in fields(TrainConfig)}.union(OTHER_FLAGS)
    taken = [name for name in names if name in common]
    if taken:
        raise ConfigurationError(f"the option {taken[0]!r} of {text} is one of every training; call it otherwise")
    for name, hint in types_of(found).items():
        if not is_plain(hint):
            raise ConfigurationError(
                f"the option {name!r} of {text} is of type {hint}, which no file of options holds; use bool, int, "
                "float, str, tuples and lists of them, or a dataclass of such options"
            )
    bare = [
        each.name
        for each in fields(found)  # type: ignore[arg-type]
        if each.init and each.default is MISSING and each.default_factory is MISSING
    ]
    if bare:
        raise ConfigurationError(f"every option of a task has a default, but {text} has none for {', '.join(bare)}")


def _is_task(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Task)


def _is_of(module: ModuleType, found: Any) -> bool:
    return bool(found.__module__ == module.__name__)


def _home(found: type) -> str:
    return f"dynamicblocks.training.{found.__name__}"
