"""A folder that appears whole or not at all: it is made beside, under a name of its own, and renamed."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.training.disk import PART, flush_folder, make_folder, writing
from dynamicblocks.training.lock import NAME, HeldError, Lock

# What may lie in a folder that was begun here; any other is somebody else's.
OURS = (NAME, "config.yaml", "run.json", "checkpoint.safetensors", "model.safetensors", "result.json", "seeds.json")
# How the name of a folder begins that is made to see whether one can be, and removed at once.
TRIED = ".."
# A folder without a lock may be of a process that has not come to it yet.
SECONDS_TO_LOCK = 60


@contextmanager
def appearing(path: Path, lock: Lock) -> Iterator[Path]:
    """A folder to fill, which has the name ``path`` behind the block, in the hands of ``lock``; on an error, none.

    Raises:
        ConfigurationError: there is something at its place.
        StorageError: it cannot be made, or another process is making it.
    """
    part = beside = path.with_name(f".{path.name}{PART}")
    made: list[Path] = []
    try:
        _make_parents(path.parent, made)
        remove_leftovers(path.parent)
        make_folder(part)
        lock.acquire(part)
        with writing(path, "made"):
            _empty(part)
            yield part
            flush_folder(part)
            try:
                os.rename(part, path)  # noqa: PTH104
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise ConfigurationError(
                        f"{path} exists already, since a moment ago; choose another name"
                    ) from error
                raise
            part = path
            lock.moved(path)
            flush_folder(path.parent)
    except BaseException as error:
        if not isinstance(error, HeldError):
            shutil.rmtree(part, ignore_errors=True)
        lock.release()
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, StorageError):
            # Whoever asked for the one name knows nothing of the other.
            raise type(error)(str(error).replace(str(beside), str(path))) from error
        raise


def check_place(path: Path) -> None:
    """Try whether a folder could be made at ``path``, and leave nothing.

    Raises:
        StorageError: it could not.
    """
    missing = [path]
    with writing(path, "made"):
        while not _exists(missing[-1].parent):
            missing.append(missing[-1].parent)
        above = missing[-1].parent
        if not above.is_dir():
            raise StorageError(f"{path} cannot be made: {above} is no folder")
        longest = os.pathconf(above, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        for folder in missing:
            if len(os.fsencode(f".{folder.name}{PART}")) > longest:
                raise StorageError(f"{path.parent}/{folder.name:.20}... cannot be made: File name too long")
        # Rights alone do not tell: there are file systems in which nobody makes folders.
        tried = above / f"{TRIED}{os.getpid()}{PART}"
        tried.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # somebody took it for one that a killed process left
            tried.rmdir()


def remove_leftovers(parent: Path) -> None:
    """Remove the folders in ``parent`` that processes had begun which are gone now."""
    for part in parent.glob(f".*{PART}"):
        with suppress(OSError, StorageError):
            names = {entry.name for entry in part.iterdir()}
            if part.name.startswith(TRIED) and not names:
                part.rmdir()
                continue
            ours = all(name in OURS or name.endswith(PART) for name in names)
            waited = NAME in names or time.time() - part.stat().st_mtime > SECONDS_TO_LOCK
            if ours and waited:
                lock = Lock()
                lock.acquire(part)
                if not lock.note:
                    shutil.rmtree(part)
                lock.release()


def _exists(path: Path) -> bool:
    """Whether there is something at ``path``, be it a link that leads nowhere."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _make_parents(folder: Path, made: list[Path]) -> None:
    """The folders above, noting in ``made`` those that were not there."""
    missing = []
    with writing(folder, "made"):
        while not _exists(folder):
            missing.append(folder)
            folder = folder.parent
    for each in reversed(missing):
        make_folder(each)
        made.append(each)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name != NAME:
            entry.unlink()
