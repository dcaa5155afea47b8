"""A system whose disk fails, in the place of ``os`` where files are written."""

import errno
import os

from dynamicblocks.training import appearing, disk, lock

# What changes something on a disk, and what may find that it did not.
WRITING = ("open", "write", "pwrite", "fsync", "replace", "rename", "mkdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EFBIG)


class Faulty:
    """``os``, of which one call of those that write fails, and all later ones where the fault ``stays``."""

    def __init__(self, call, error=errno.ENOSPC, stays=False):
        self.call, self.error, self.stays, self.calls = call, error, stays, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in WRITING:
            return real

        def called(*given, **named):
            self.calls += 1
            if self.calls == self.call or (self.stays and self.calls > self.call):
                raise OSError(self.error, os.strerror(self.error))
            return real(*given, **named)

        return called


class Short(Faulty):
    """``os`` that takes half of what is written and says that it took all."""

    def __getattr__(self, name):
        if name != "write":
            return getattr(os, name)

        def half(descriptor, data):
            self.calls += 1
            taken = data if self.calls != self.call else data[: len(data) // 2]
            os.write(descriptor, taken)
            return len(data)

        return half


def broken(monkeypatch, system):
    for module in (disk, appearing, lock):
        monkeypatch.setattr(module, "os", system)
    return system
