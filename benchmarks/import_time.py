"""What does it take to import the package, and to ask its command line for a list, beside importing torch?"""

import argparse
import os
import resource
import subprocess
import sys

from harness import Spread, make_parser, save, show

BESIDE = "import torch"
LINE = "from dynamicblocks.cli.main import main; main({})"
CASES = {
    "odeint, solve, DynamicBlock": ("import dynamicblocks as db; db.odeint; db.solve; db.DynamicBlock", 1.3),
    "dynamicblocks --version": (LINE.format(["--version"]), 0.1),
    "dynamicblocks --help": (LINE.format(["--help"]), 0.1),
    "dynamicblocks models": (LINE.format(["models"]), 1.5),
    "dynamicblocks methods": (LINE.format(["methods"]), 1.5),
    "dynamicblocks integrators": (LINE.format(["integrators"]), 1.5),
}


def processor_seconds(program: str) -> float:
    """Of a fresh process: user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(program: str, repeats: int) -> dict[str, object]:
    """Seconds of rounds A B B A, and the rounds' ratios."""
    rounds = [[processor_seconds(each) for each in (program, BESIDE, BESIDE, program)] for _ in range(repeats)]
    return {
        "seconds": [seconds for first, _, _, last in rounds for seconds in (first, last)],
        "seconds_torch": [seconds for _, second, third, _ in rounds for seconds in (second, third)],
        "ratios": Spread.of([(a + d) / (b + c) for a, b, c, d in rounds]),
    }


def main(options: argparse.Namespace) -> None:
    for program in (BESIDE, *(program for program, _ in CASES.values())):
        processor_seconds(program)  # writes the compiled modules
    rows, results = [], {}
    for name, (program, target) in CASES.items():
        found = measure(program, options.repeats)
        ratios = found["ratios"]
        rows.append({"case": name, "processor time / import torch": str(ratios), "at most": target})
        results[name] = {**found, "ratios": vars(ratios), "target": target}
    show("Processor time of fresh processes, median [quartiles]", rows)
    payload = {"repeats": options.repeats, "cases": results}
    print(f"written to {save('import_time', payload, path=options.output)}")


if __name__ == "__main__":
    main(make_parser(__doc__, "python benchmarks/import_time.py --repeats 3", repeats=5).parse_args())
