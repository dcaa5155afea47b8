"""(helper) A process that builds one case of ``cases.py`` and times it on request; ``against_commit.py`` has two.

It reads one JSON request a line from its input and writes one JSON answer a line to what was its output.
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

import torch
from cases import CASES, Run
from live_bytes import peak_bytes

import dynamicblocks

WARM_CALLS, WARM_SECONDS = 2, 0.5


def first_outcome(run: Run) -> list[float]:
    """The 2-norm of each tensor of the first call, which compiles what is to be compiled."""
    return [tensor.double().norm().item() for tensor in run()]


def warm(run: Run) -> float:
    """Run for a while; the seconds of the fastest call."""
    fastest, begin, calls = float("inf"), time.perf_counter(), 0
    while calls < WARM_CALLS or time.perf_counter() - begin < WARM_SECONDS:
        fastest = min(fastest, timed(run, 1)["wall"])
        calls += 1
    # What lives now is set aside, so that the collections between the blocks look at new garbage only.
    gc.collect()
    gc.freeze()
    return fastest


def timed(run: Run, repetitions: int) -> dict[str, float]:
    """Seconds of a repetition: mean and fastest, and the mean of processor time, without waiting for a core."""
    gc.collect()
    processor, begin = time.process_time(), time.perf_counter()
    before, fastest = begin, float("inf")
    for _ in range(repetitions):
        run()
        now = time.perf_counter()
        fastest, before = min(fastest, now - before), now
    processor = time.process_time() - processor
    return {"wall": (before - begin) / repetitions, "processor": processor / repetitions, "fastest": fastest}


def pin(threads: int) -> None:
    """Stay on as many cores as there are threads, the same for every process: what disturbs one then disturbs all."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def main() -> None:
    name, checkout, threads = sys.argv[1:]
    found = Path(dynamicblocks.__file__).resolve()
    if Path(checkout).resolve() not in found.parents:
        sys.exit(f"the package was imported from {found}, not from {checkout}")
    # Whatever else prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    pin(int(threads))
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    run = CASES[name].build()
    requests = {
        "first": lambda: first_outcome(run),
        "warm": lambda: warm(run),
        "time": lambda repetitions: timed(run, repetitions),
        "peak": lambda: peak_bytes(run),
    }
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answers.write(json.dumps(requests[what](*arguments)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
