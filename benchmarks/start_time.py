"""What does the quick start's `dynamicblocks train` take to the end of its first step, beside `import torch`?

Processor time, user and system, of fresh processes, in rounds A B B A: with one thread of PyTorch, and with as many as
PyTorch takes by itself. The caches of the compiler are new and empty each time. Where other programs keep the cores
busy, threads wait for one another, and that is processor time as well.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile

from harness import Spread, make_parser, save, show

TARGET = 6.0
TORCH = "import torch"
FIRST_STEP = """
import sys
from dynamicblocks.cli.main import main
from dynamicblocks.training.engine import Engine
step = Engine.step
def last(*arguments):
    step(*arguments)
    raise SystemExit(3 if "torch._inductor.compile_fx" in sys.modules else 0)
Engine.step = last
main(["train", "--output", sys.argv[1]])
"""


def processor_seconds(program: str, threads: int | None) -> float:
    """Of a fresh process with nothing compiled: user and system."""
    with tempfile.TemporaryDirectory() as empty:
        variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        variables |= {"TORCHINDUCTOR_CACHE_DIR": empty} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", program, f"{empty}/runs"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=variables)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(threads: int | None, repeats: int) -> dict[str, object]:
    """Seconds of rounds A B B A, and the rounds' ratios."""
    sides = (FIRST_STEP, TORCH, TORCH, FIRST_STEP)
    rounds = [[processor_seconds(each, threads) for each in sides] for _ in range(repeats)]
    return {
        "seconds": [seconds for first, _, _, last in rounds for seconds in (first, last)],
        "seconds_torch": [seconds for _, second, third, _ in rounds for seconds in (second, third)],
        "ratios": vars(Spread.of([(a + d) / (b + c) for a, b, c, d in rounds])),
        "load_average": os.getloadavg(),
    }


def main(options: argparse.Namespace) -> None:
    for program in (TORCH, FIRST_STEP):
        processor_seconds(program, 1)  # writes the modules that Python compiles
    rows, results = [], {}
    for name, threads in (("one thread", 1), ("as many as PyTorch takes", options.threads)):
        results[name] = found = measure(threads, options.repeats)
        spread = Spread(**found["ratios"])
        rows.append(
            {
                "threads": name,
                "processor time / import torch": str(spread),
                "range": f"{spread.min:.2f} to {spread.max:.2f}",
                "at most": TARGET,
            }
        )
    show("From the command to the end of the first training step, median [quartiles]", rows)
    payload = {"repeats": options.repeats, "target": TARGET, "threads": results}
    print(f"written to {save('start_time', payload, path=options.output)}")


if __name__ == "__main__":
    main(make_parser(__doc__, "python benchmarks/start_time.py --repeats 3", repeats=3).parse_args())
