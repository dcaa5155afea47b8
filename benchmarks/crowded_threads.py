"""How much longer does a training take with a thread for each core than with one, where other programs keep them busy?

Two trainings of the quick start, of a few steps each, in turn, A B B A, beside so many processes that compute without
end as there are cores (`--others`; programs that run anyway come on top, the load average tells of them). Both are
timed from their first step to their last.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager

from harness import Spread, make_parser, save, show

BUSY = "while True: pass"
TRAINING = """
import sys, time
from dynamicblocks.cli.main import main
from dynamicblocks.training.engine import Engine
step, begun = Engine.step, []
def timed(*arguments):
    step(*arguments)
    begun.append(time.perf_counter())
    if len(begun) > int(sys.argv[2]):
        print(begun[-1] - begun[0])
        raise SystemExit
Engine.step = timed
main(["train", "--output", sys.argv[1]])
"""


@contextmanager
def others(count: int):
    """Other programs that keep so many cores busy."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(threads: int, steps: int) -> float:
    """Of the steps behind the first of a fresh training."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", TRAINING, f"{folder}/runs", str(steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    return float(done.stdout.split()[-1])


def main(options: argparse.Namespace) -> None:
    """Measure, print and save."""
    cores = options.threads or len(os.sched_getaffinity(0))
    beside = cores if options.others is None else options.others
    with others(beside):
        sides = (cores, 1, 1, cores)
        rounds = [[seconds(threads, options.steps) for threads in sides] for _ in range(options.repeats)]
        load = os.getloadavg()
    ratios = Spread.of([(a + d) / (b + c) for a, b, c, d in rounds])
    show(
        f"{options.steps} steps beside {beside} busy programs",
        [{"threads": f"{cores} against 1", "time": str(ratios), "range": f"{ratios.min:.2f} to {ratios.max:.2f}"}],
    )
    found = {"threads": cores, "others": beside, "steps": options.steps, "load_average": load}
    print(save("crowded_threads", {**found, "seconds": rounds, "ratios": vars(ratios)}, path=options.output))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/crowded_threads.py --others 0", repeats=3)
    parser.add_argument("--others", type=int, help="programs that keep a core busy each (default: one for each core)")
    parser.add_argument("--steps", type=int, default=10, help="(default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
