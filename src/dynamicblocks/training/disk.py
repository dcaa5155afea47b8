"""Bytes on disk, whole or not at all: the one place that writes the files of runs.

An error of the operating system leaves here as a StorageError of one line. What was begun is removed then, and what was
there before stays as it was.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynamicblocks.errors import StorageError

PART = ".part"
"""How names end of what is not whole yet; they begin with a dot."""

# A file system that knows no such thing as flushing a folder says so by one of these.
NO_FOLDERS_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
ONLY_READ = (errno.EROFS, errno.EACCES, errno.EPERM)


class ReadOnlyError(StorageError):
    """A place that may only be read."""


@contextmanager
def writing(path: Path, what: str = "written") -> Iterator[None]:
    """Turn whatever the operating system says against writing ``path`` into one line.

    Raises:
        StorageError: it said something; ReadOnlyError where the place may only be read.
    """
    try:
        yield
    except OSError as error:
        kind = ReadOnlyError if error.errno in ONLY_READ else StorageError
        raise kind(f"{path} cannot be {what}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a neighbour of ``path``, see that all of it is on the disk, and only then give it the name ``path``."""
    beside = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with writing(path):
        try:
            _write_new(beside, data)
            os.replace(beside, path)  # noqa: PTH105  (this is where errors are injected)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)  # noqa: PTH108
            raise
        flush_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add lines to a file, which ends in whole lines then: in all of the new ones, or none of them."""
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            before = _end_of_lines(descriptor)
            try:
                _write_all(descriptor, data)
                _see_length(descriptor, before + len(data))
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """A folder, which may be there already."""
    with writing(path, "made"), suppress(FileExistsError):
        os.mkdir(path)  # noqa: PTH102
    if not path.is_dir():
        raise StorageError(f"{path} cannot be made: there is a file of this name")


def flush_folder(folder: Path) -> None:
    """See that the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDERS_FLUSHED:
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes had begun to write into a folder."""
    for part in folder.glob(f".*{PART}"):
        with suppress(OSError):
            part.unlink()


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_all(descriptor, data)
        _see_length(descriptor, len(data))
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        written = os.write(descriptor, left)
        if written <= 0:
            raise OSError(errno.EIO, "nothing more is written")
        left = left[written:]


def _see_length(descriptor: int, length: int) -> None:
    """Flush a file, and raise unless all of it is there."""
    os.fsync(descriptor)
    found = os.fstat(descriptor).st_size
    if found < length:
        raise OSError(errno.EIO, f"only {found} of {length} bytes are on the disk")


def _end_of_lines(descriptor: int) -> int:
    """The end of the last whole line of a file; a line that a crash cut short is taken off."""
    size = os.fstat(descriptor).st_size
    end, block = size, 4096
    while end:
        begin = max(0, end - block)
        place = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if place >= 0:
            end = begin + place + 1
            break
        end = begin
    if end < size:
        os.ftruncate(descriptor, end)
    return end
