"""Whether a processor has as many free cores as PyTorch has threads.

Threads wait for one another in every operation, so one that has no core holds up all.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import torch

# Fewer free cores than this share of the threads are told of: whatever else runs on a machine takes a little.
ENOUGH = 0.75
# Shorter than this, in seconds, what other programs take is not known: the kernel counts in hundredths.
WORTH_JUDGING = 0.3
CGROUPS = Path("/sys/fs/cgroup")
STAT = Path("/proc/stat")
MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Cores:
    """The cores that there are for a process.

    Args:
        allowed: that it may run on.
        quota: of whose time a container gives it, perhaps fractions; None for all.
        busy: that other programs kept busy, on average.
    """

    allowed: int
    quota: float | None = None
    busy: float = 0.0

    @property
    def free(self) -> float:
        """Those that are left for this process."""
        return max(0.0, min(self.allowed - self.busy, self.allowed if self.quota is None else self.quota))

    def advice(self, threads: int) -> str:
        """What to do where so many threads are too many, in a line; else nothing.

        >>> Cores(allowed=8, quota=2.0).advice(threads=8)[:56]
        '8 threads of PyTorch share 2 free cores (a container giv'
        """
        if threads < 2 or self.free >= ENOUGH * threads:
            return ""
        causes = [
            f"{self.allowed} to run on" if self.allowed < threads else "",
            f"a container gives {self.quota:.3g}" if self.quota is not None and self.quota < threads else "",
            f"other programs keep {self.busy:.1f} of {self.allowed} busy" if self.busy >= 0.5 else "",
        ]
        fitting = max(1, round(self.free))
        return (
            f"{threads} threads of PyTorch share {self.free:.2g} free cores ({', '.join(filter(None, causes))}), and "
            f"wait for one another in every operation; {_cores(fitting)}: "
            f"OMP_NUM_THREADS={fitting} dynamicblocks train ..."
        )


def _cores(count: int) -> str:
    return "with one thread none waits" if count == 1 else f"{count} threads have a core each"


class Watch:
    """Sees from now on what other programs take."""

    def __init__(self) -> None:
        self.begin = _Instant.now()

    def cores(self) -> Cores:
        """What there was for this process meanwhile."""
        allowed = _allowed()
        return Cores(len(allowed), quota(), self.begin.busy_until(_Instant.now(), len(allowed)))


@dataclass(frozen=True)
class _Instant:
    """Seconds since some time: of the clock, of this process, and of all cores that it may run on together."""

    clock: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> Self:
        text = STAT.read_text(encoding="ascii") if STAT.exists() else ""
        return cls(time.monotonic(), time.process_time(), busy_seconds(text, _allowed(), polite=_niceness() <= 0))

    def busy_until(self, later: "_Instant", cores: int) -> float:
        """The cores that others kept busy until then; none where that is not known."""
        seconds = later.clock - self.clock
        if self.all is None or later.all is None or seconds < WORTH_JUDGING:
            return 0.0
        others = (later.all - self.all) - (later.own - self.own)
        return min(float(cores), max(0.0, others / seconds))


def busy_seconds(stat: str, cores: set[int], *, polite: bool = True) -> float | None:
    """Seconds that these cores have computed for anybody, as /proc/stat has it; None where it has not.

    Args:
        stat: its text.
        cores: their numbers.
        polite: leave out programs that make way for this one, those with a niceness.
    """
    found = 0
    lines = [line.split() for line in stat.splitlines() if line.startswith("cpu")]
    here = [line[1:] for line in lines if line[0] in {f"cpu{core}" for core in cores} and len(line) > 8]
    for user, nice, system, _idle, _waiting, interrupts, soft, stolen in (map(int, line[:8]) for line in here):
        found += user + (0 if polite else nice) + system + interrupts + soft + stolen
    return found / os.sysconf("SC_CLK_TCK") if here else None


def quota(membership: Path = MEMBERSHIP, mounted: Path = CGROUPS) -> float | None:
    """Of how many cores' time the process may use, where control groups (versions 1 and 2) limit it; else None."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [
        limit
        for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2)
        if not controllers or "cpu" in controllers.split(",")
        for home in _homes(mounted, controllers)
        for folder in _upwards(home, group)
        if (limit := _limit(folder)) is not None
    ]
    return min(found, default=None)


def _homes(mounted: Path, controllers: str) -> list[Path]:
    return [mounted / controllers, mounted / "cpu"] if controllers else [mounted, mounted / "unified"]


def _upwards(home: Path, group: str) -> Iterator[Path]:
    """The folder of a group and those around it; in a container the root of what is seen may be the group itself."""
    inner = PurePosixPath(group.lstrip("/"))
    if ".." not in inner.parts:
        yield from (home / part for part in (inner, *inner.parents))


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            taken, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            taken, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return int(taken) / int(period) if int(taken) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # not limited, or not here
        return None


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0


def advice(watch: Watch, device: torch.device, processes: int) -> str:
    """What to do about too many threads of a training of one process on a CPU, in a line; else nothing."""
    if device.type != "cpu" or processes > 1:
        return ""
    return watch.cores().advice(torch.get_num_threads())
