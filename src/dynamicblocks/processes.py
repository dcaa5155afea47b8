"""The processes of one training on one machine: the first starts the others, and none outlives it or is lost unseen."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamicblocks.interruption import FIRST_PROCESS, INTERRUPTED, TERMINATED, end_here, speaks

# What is said of a process that reads files for this one.
READER_LOST = "a process that reads the data was killed or could not be started (out of memory?)"

# Seconds between two looks at the other processes.
LOOK = 0.2
# How long a process that lost another one may take to notice it by itself, which it cannot while it waits for a device.
NOTICE = 5.0
# How long after this process one that fails for the same reason may fail.
ALIKE = 3.0
# How long the others may take to end after the first is through, or after it was told that they should.
LINGER = 10.0


@dataclass
class Others:
    """Those that this process started.

    Args:
        started: in order of their ranks, from 1 on.
        watched: whether it is an error if one of them ends.
        advice: what to do then, where there is something to go on from.
    """

    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    watched: bool = False
    advice: Callable[[], str] = str

    def lost(self) -> tuple[str, int] | None:
        """One that has failed, in words, and the exit code of a program that ends for this; None if there is none."""
        for rank, process in enumerate(self.started, start=1):
            code = process.poll()
            if code:
                return f"process {rank + 1} of {len(self.started) + 1} {_ending(code)}", _own_code(code)
        return None

    def watch(self) -> None:
        """End this process if another one was lost and it does not notice, as it cannot within a library's code."""
        while True:
            time.sleep(LOOK)
            if not self.watched or self.lost() is None:
                continue
            time.sleep(NOTICE)
            found = self.lost()
            if self.watched and found is not None:
                what, code = found
                self.end(patience=0)
                said = "interrupted" if code in (INTERRUPTED, TERMINATED) else f"error: {what}"
                end_here("; ".join(filter(None, (said, self.advice()))), code)

    def end(self, patience: float = LINGER) -> None:
        """See to it that they end, the sooner the less patience."""
        self.watched = False
        until = time.monotonic() + patience
        while time.monotonic() < until and any(process.poll() is None for process in self.started):
            time.sleep(LOOK / 10)
        for process in self.started:
            if process.poll() is None:
                process.kill()  # it writes nothing
                process.wait()


others = Others()


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    killed = f"was killed by {names.get(-code, f'signal {-code}')}"
    return f"{killed} (out of memory?)" if -code == getattr(signal, "SIGKILL", None) else killed


def _own_code(code: int) -> int:
    return code if code in (INTERRUPTED, TERMINATED) else 1


def start_others(count: int, address: str, port: int) -> None:
    """Start this program ``count - 1`` times more, with the same arguments, each with a rank of its own."""
    shared = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "NODE_RANK": "0"}
    os.environ.update({**shared, FIRST_PROCESS: str(os.getpid()), "LOCAL_RANK": "0"})
    atexit.register(others.end)
    others.watched = True
    for rank in range(1, count):
        environment = {**os.environ, "LOCAL_RANK": str(rank)}
        others.started.append(subprocess.Popen(_command(), env=environment))
    threading.Thread(target=others.watch, daemon=True, name="watches-processes").start()


def _command() -> list[str]:
    main = sys.modules["__main__"]
    if main.__spec__ is None:
        return [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]  # noqa: PTH100  (links stay)
    return [sys.executable, "-m", main.__spec__.name, *sys.argv[1:]]


def is_other() -> bool:
    """Whether this process was started by the first one of a training."""
    return not speaks()


def first_is_gone(patience: float = 0.0) -> bool:
    """Whether the process that started this one has ended, or does so soon."""
    until = time.monotonic() + patience
    while os.getppid() == int(os.environ[FIRST_PROCESS]):
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK / 10)
    return True


def first_says_so() -> bool:
    """Whether this process has nothing to say: it is another one than the first, which ends like it and says why."""
    return is_other() and first_is_gone(patience=ALIKE)


def follow_first() -> None:
    """From now on this process ends when the first one has, if it is another one."""
    if not is_other() or any(thread.name == "follows-first" for thread in threading.enumerate()):
        return

    def follow() -> None:
        while not first_is_gone():
            time.sleep(LOOK)
        time.sleep(NOTICE)  # in which it mostly ends by itself
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="follows-first").start()
