"""Is the package as fast as it was? Times of two checkouts of it, side by side.

Two processes, one a checkout, build the same case (``cases.py``) and time blocks of as many repetitions in turn, in
rounds A B B A, A after and B before; only one of them computes at a time. A round gives one ratio (A + A) / (B + B),
after over before. A process can be some per cent faster or slower than another of the same code for as long as it
lives, so both are started anew a few times, with rounds A B B A and B A A B in turn.

Example: python benchmarks/against_commit.py --before HEAD~5 --cases solver_vdp-eager solver_cnf-adjoint
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from cases import CASES
from harness import Spread, save, show

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BLOCK_SECONDS = 0.1
# Relative difference of the 2-norm of a result or gradient, above which two versions do not compute the same.
CLOSE = 1e-4


class Worker:
    """A process with one case of one checkout; it computes while :meth:`ask` waits, and at no other time."""

    def __init__(self, case: str, checkout: Path, threads: int) -> None:
        command = [sys.executable, str(HERE / "case_worker.py"), case, str(checkout), str(threads)]
        # The order of sets of strings, and what hangs on it, is the same on both sides.
        variables = {**os.environ, "PYTHONPATH": str(checkout / "src"), "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *request: object) -> object:
        """The answer to a request of ``case_worker.py``."""
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.process.args[-2]} ended, see above")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def median_interval(by_start: Sequence[Sequence[float]], draws: int = 4000) -> list[float]:
    """Between what the median lies with 95 %, by bootstrap: starts are drawn first, then rounds of each.

    The rounds of one start are alike, so drawing rounds alone would make the interval too narrow.

    >>> median_interval([[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]])
    [1.5, 12.5]
    """
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(draws):
        chosen = generator.integers(len(by_start), size=len(by_start))
        medians.append(np.median(np.concatenate([generator.choice(by_start[i], len(by_start[i])) for i in chosen])))
    return [float(each) for each in np.quantile(medians, (0.025, 0.975))]


def difference(after: Sequence[float], before: Sequence[float]) -> float:
    """The largest relative difference of norms.

    Raises:
        RuntimeError: it is so large that times are not worth comparing.
    """
    pairs = list(zip(after, before, strict=True))
    largest = max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
    if not largest <= CLOSE:
        raise RuntimeError(f"before and after do not compute the same: norms differ by {largest:.1e}")
    return largest


def measured(name: str, checkouts: dict[str, Path], order: str, rounds: int, threads: int) -> dict[str, object]:
    """One pair of processes: seconds of a repetition in every block, in rounds of that order (ABBA or BAAB)."""
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(name, checkouts[side], threads)) for side in dict.fromkeys(order)}
        norms = {side: worker.ask("first") for side, worker in workers.items()}
        repetitions = math.ceil(BLOCK_SECONDS / min([worker.ask("warm") for worker in workers.values()]))
        blocks: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
        for side in order * rounds:
            blocks[side].append(workers[side].ask("time", repetitions))
        return {
            "order": order,
            "repetitions": repetitions,
            "norms_differ_by": difference(norms["A"], norms["B"]),
            "seconds": {
                kind: {side: [block[kind] for block in blocks[side]] for side in "AB"}
                for kind in ("wall", "processor", "fastest")
            },
            "peak_bytes": {side: workers[side].ask("peak") for side in "AB"} if CASES[name].memory else None,
        }


def ratios_of(pair: dict[str, object], kind: str) -> list[float]:
    """(A + A) / (B + B) of each round."""
    a, b = pair["seconds"][kind]["A"], pair["seconds"][kind]["B"]
    return [(a[i] + a[i + 1]) / (b[i] + b[i + 1]) for i in range(0, len(a), 2)]


def summary(pairs: Sequence[dict[str, object]], kind: str) -> dict[str, object]:
    """Of the ratios of all rounds."""
    by_start = [ratios_of(pair, kind) for pair in pairs]
    ratios = [ratio for each in by_start for ratio in each]
    return {
        **asdict(Spread.of(ratios)),
        "interval_of_median": median_interval(by_start),
        "medians_of_starts": [median(each) for each in by_start],
        "ratios": ratios,
    }


def compare(name: str, after: Path, before: Path, options: argparse.Namespace) -> dict[str, object]:
    """Everything about one case."""
    pairs = []
    for start in range(min(options.starts, options.rounds)):
        rounds = len(range(start, options.rounds, options.starts))
        # In turn, for the process that starts first was seen to be the slower one by a per cent.
        order = ("ABBA", "BAAB")[start % 2]
        pairs.append(measured(name, {"A": after, "B": before}, order, rounds, options.threads))
    seconds = {side: [each for pair in pairs for each in pair["seconds"]["wall"][side]] for side in "AB"}
    fastest = {side: min(min(pair["seconds"]["fastest"][side]) for pair in pairs) for side in "AB"}
    return {
        "case": name,
        "time": summary(pairs, "wall"),
        "processor_time": summary(pairs, "processor"),
        "ratio_of_fastest": fastest["A"] / fastest["B"],
        "median_seconds": {side: median(each) for side, each in seconds.items()},
        "starts": pairs,
    }


def row(result: dict[str, object]) -> dict[str, object]:
    """A case as a line of the table."""
    wall, processor = result["time"], result["processor_time"]
    peak = result["starts"][0]["peak_bytes"]
    return {
        "case": result["case"],
        "time": f"{wall['median']:.3f} [{wall['lower_quartile']:.3f}, {wall['upper_quartile']:.3f}]",
        "95 %": "{:.3f}, {:.3f}".format(*wall["interval_of_median"]),
        "min": f"{wall['min']:.3f}",
        "fastest": f"{result['ratio_of_fastest']:.3f}",
        "processor": f"{processor['median']:.3f}",
        "before ms": f"{1000 * result['median_seconds']['B']:.3g}",
        "bytes": f"{peak['A'] / peak['B']:.3f}" if peak else "",
    }


def git(*arguments: str, folder: Path = ROOT) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextmanager
def checkout_of(version: str) -> Iterator[Path]:
    """The folder of a checkout; that of a commit is made, and removed afterwards."""
    if (Path(version) / "src" / "dynamicblocks").is_dir():
        yield Path(version).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        git("worktree", "add", "--quiet", "--detach", str(path), version)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def commit_of(checkout: Path) -> str:
    """Its commit, and whether the package was changed since."""
    changed = git("status", "--porcelain", "--", "src", folder=checkout)
    return git("rev-parse", "HEAD", folder=checkout) + (" with changes" if changed else "")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit, or the folder of a checkout")
    parser.add_argument("--after", default=str(ROOT), help="the same (default: this checkout)")
    parser.add_argument("--rounds", type=int, default=20, help="of four blocks, for each case (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=4, help="pairs of processes for them (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES], metavar="CASE", help=", ".join(CASES))
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    torch.set_num_threads(options.threads)  # so that the record of the environment has it
    with checkout_of(options.before) as before, checkout_of(options.after) as after:
        record = {"before": commit_of(before), "after": commit_of(after), "rounds": options.rounds}
        results = []
        for name in options.cases:
            begin = time.perf_counter()
            results.append(compare(name, after, before, options))
            print(f"{name}: {results[-1]['time']['median']:.3f}, {time.perf_counter() - begin:.0f} s", flush=True)
            # After every case, so that a measurement of an hour can be broken off.
            path = save("against_commit", {**record, "after_over_before": results})
    show(f"{record['after'][:7]} over {record['before'][:7]}", [row(result) for result in results])
    print(path)


if __name__ == "__main__":
    main()
