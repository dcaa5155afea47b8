"""Whether a folder could be made, told before there is anything to put into it."""

import os
from pathlib import Path

from dynamicblocks.errors import ConfigurationError, StorageError


def check_creatable(path: Path) -> None:
    """Raise unless a folder could be made at ``path``.

    The nearest of its parents that there is gets a folder for a moment, for rights alone do not tell: they may be those
    of a system that lets nobody write there.

    Raises:
        StorageError: the file system refuses it.
        ConfigurationError: no path is written so.
    """
    if "\0" in str(path):
        raise ConfigurationError(f"a path holds no null characters, got {str(path)!r}")
    # A new folder begins its life under a longer name.
    parent = path.absolute()
    tried = parent.with_name(f".{parent.name}.{os.getpid()}.part")
    try:
        tried.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise StorageError(f"no folder can be made at {str(path)!r:.200}: {error.strerror}") from error
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise StorageError(f"no folder can be made at {path}: {parent} is no folder")
    tried = parent / tried.name
    try:
        tried.mkdir()
        tried.rmdir()
    except OSError as error:
        raise StorageError(f"no folder can be made at {path}: {error.strerror}: {parent}") from error
