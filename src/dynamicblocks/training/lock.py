"""One training at a time in a folder: a lock that the system takes back from a process that is gone."""

import errno
import gc
import os
import socket
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dynamicblocks.errors import StorageError
from dynamicblocks.training.disk import writing

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

NAME = "lock"
# What a file system says that knows no locks.
UNKNOWN = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
# Whoever only looks whether a folder is held holds it for a moment.
TRIES, PAUSE = 3, 0.05


class HeldError(StorageError):
    """A folder in which another process trains."""


class Lock:
    """The right to train in a folder: ``flock`` on its file ``lock``, which names the host and the process.

    It ends with the process, however that ends, so a file that was left behind locks nobody out.
    """

    def __init__(self) -> None:
        self.note = ""
        self._path: Path | None = None
        self._descriptor: int | None = None
        _locks.add(self)

    @property
    def held(self) -> bool:
        """Whether it is held, as far as the file system knows such a thing."""
        return self._path is not None

    def acquire(self, folder: Path) -> None:
        """Hold the folder from now on. Where the file system knows no locks, ``note`` says so.

        Raises:
            HeldError: another process holds it.
        StorageError: the folder cannot be written.
        """
        path = folder / NAME
        if self._path == path:
            return
        for _ in range(TRIES):
            with writing(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                known = _flock(descriptor, exclusive=True)
                if known and not _is_at(descriptor, path):  # the holder of before has just removed it
                    os.close(descriptor)
                    continue
                with writing(path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
            except BlockingIOError:
                os.close(descriptor)
                _wait(path)
                continue
            except BaseException:
                os.close(descriptor)
                raise
            self._path, self._descriptor = path, descriptor
            if not known:
                self.note = (
                    f"the file system of {folder} knows no locks, so nothing keeps another process from training there"
                )
            return
        raise HeldError(_refusal(path))

    def moved(self, folder: Path) -> None:
        """The folder has another name now."""
        self._path = folder / NAME

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is None or self._path is None:
            return
        with suppress(OSError):
            if _is_at(self._descriptor, self._path):
                self._path.unlink()
        self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
        self._path = self._descriptor = None

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the interpreter's end the system takes it back, and the names of this module may be gone.
        if not _finalizing():
            self.release()


def check_unheld(folder: Path) -> None:
    """Look whether a folder is held, and leave it as it is.

    Raises:
        HeldError: a process trains there.
    """
    path = folder / NAME
    for _ in range(TRIES):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # nobody ever held it, or only others may know
            return
        try:
            _flock(descriptor, exclusive=False)
            return
        except BlockingIOError:
            _wait(path)
        finally:
            os.close(descriptor)
    raise HeldError(_refusal(path))


def _flock(descriptor: int, *, exclusive: bool) -> bool:
    """Lock a file at once, or raise BlockingIOError; whether the file system knows locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise StorageError(f"no lock can be had: {error.strerror}") from error
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _holder(path: Path) -> tuple[str, int] | None:
    """Host and process that a lock names, which may have only just taken it."""
    try:
        host, process = path.read_text(encoding="utf-8").split()
        return host, int(process)
    except (OSError, ValueError):
        return None


def _refusal(path: Path) -> str:
    found = _holder(path)
    holder = "another process" if found is None else f"process {found[1]} on {found[0]}"
    return f"{path.parent} is in the hands of {holder}, which trains there; wait until it has ended, or end it"


def _wait(path: Path) -> None:
    if _holder(path) == (socket.gethostname(), os.getpid()):
        gc.collect()  # of a training here that nobody refers to any more, the lock goes with it
    else:
        time.sleep(PAUSE)


_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    # Else a worker that outlives its killed parent would go on to hold what that held.
    for lock in list(_locks):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
