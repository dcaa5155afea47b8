"""JSON from files that may be damaged: bounded in size and depth, and a damaged one is an error that says where."""

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from dynamicblocks.errors import StorageError

# Bytes of a file, and how deep values may stand in each other.
LARGEST, DEEPEST = 8 * 2**20, 64


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """A file that is one, and not larger than files of its kind are.

    Raises:
        StorageError: it is missing, no regular file, too large or cannot be read.
    """
    with _opened(path) as (file, size):
        if size > largest:
            raise StorageError(f"{path} holds {size:,} bytes; files of its kind have at most {largest:,}")
        return file.read(largest)


def read_end(path: Path, most: int) -> bytes:
    """The last bytes of a file that is one, ``most`` of them at most, or an error as in :func:`read_bytes`."""
    with _opened(path) as (file, size):
        file.seek(max(0, size - most))
        return file.read(most)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file and its size."""
    try:
        # Opening a pipe would wait for somebody who writes into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise StorageError(f"{path} is no regular file")
            yield file, found.st_size
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path, what: str = "a value", *, infinite: bool = False) -> Any:
    """The JSON in a file; ``what`` it is, for what is said where it is not; ``infinite`` as in :func:`parsed`.

    Raises:
        StorageError: it is missing or damaged.
    """
    return parsed(read_bytes(path), f"{path} cannot be read; it", what, infinite=infinite)


def read_object(path: Path, *, infinite: bool = False) -> dict[str, Any]:
    """The object in a JSON file, or an error as in :func:`read_json`."""
    return as_object(read_json(path, "an object", infinite=infinite), f"{path}")


def as_object(value: Any, where: str) -> dict[str, Any]:
    """A value that is an object.

    Raises:
        StorageError: it is something else.
    """
    if not isinstance(value, dict):
        raise StorageError(f"{where} must hold an object, got {type(value).__name__}")
    return value


def parsed(data: bytes | str, where: str, what: str = "a value", *, infinite: bool = False) -> Any:
    """JSON that was read.

    Args:
        data: the text.
        where: it stood.
        what: it should be.
        infinite: whether NaN and Infinity may stand there, as earlier versions wrote them.

    Raises:
        StorageError: it is none, or stands too deep.
    """

    def constant(name: str) -> float:
        return float(name) if infinite else _refuse(where, what, f"{name} is no number of JSON")

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=constant, parse_float=lambda number: _finite(number, where, what))
    except json.JSONDecodeError as error:
        _refuse(where, what, f"line {error.lineno}, column {error.colno}: {error.msg}")
    except UnicodeDecodeError as error:
        _refuse(where, what, f"byte {error.start} is no UTF-8")
    except RecursionError:
        _refuse(where, what, f"values stand more than {DEEPEST} deep in each other")
    except ValueError as error:  # a whole number of thousands of digits
        _refuse(where, what, str(error).partition(";")[0])
    _check_depth(value, where, what)
    return value


def written(value: Any, what: str, indent: int | None = None) -> str:
    """The JSON of a value, in which every number is one.

    Raises:
        StorageError: one is not finite, or something is no value of JSON.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StorageError(f"{what} cannot be written as JSON: {error}") from error


def recordable(value: float) -> float | None:
    """A number as JSON holds it: one that is not finite is left out, as null."""
    return value if math.isfinite(value) else None


def _finite(text: str, where: str, what: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(where, what, f"{text:.20} is too large a number")


def _refuse(where: str, what: str, why: str) -> NoReturn:
    raise StorageError(f"{where} is no JSON of {what}: {why}")


def _check_depth(value: Any, where: str, what: str) -> None:
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > DEEPEST:
            _refuse(where, what, f"values stand more than {DEEPEST} deep in each other")
        layer = [
            entry
            for each in layer
            if isinstance(each, (dict, list))
            for entry in (each.values() if isinstance(each, dict) else each)
            if isinstance(entry, (dict, list))
        ]
