"""Do programs that were written for torchdiffeq get the same numbers here?

Runs programs of others, unchanged, from clones in DIR, each twice: with torchdiffeq itself, and with
dynamicblocks.torchdiffeq in its place. Compares the states of every solve, the numbers that they print and the
evaluations of their right-hand sides. Exits with 1 if any program fails here or disagrees. What cannot run with
torchdiffeq either (a library that lacks) is listed as not run, with the reason.

The clones:

    git clone https://github.com/rtqichen/torchdiffeq DIR/torchdiffeq
    git clone https://github.com/patrick-kidger/torchcde DIR/torchcde
    git clone https://github.com/facebookresearch/flow_matching DIR/flow_matching

and beside this package torchdiffeq, matplotlib, pytest and torchsde, which torchcde imports.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import RESULTS, save, show

WORKER = Path(__file__).parent / "client_worker.py"
RESULT = RESULTS / "clients.json"
SOURCE = Path(__file__).parent.parent / "src"
LIBRARIES = ("torchdiffeq", "dynamicblocks")
VERSIONS = ("torchdiffeq", "torchsde", "matplotlib", "pytest", "scipy")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Client:
    """A program of a clone.

    Args:
        name: shown.
        clone: its folder in DIR.
        program: a file in it, or what client_worker.py knows by name.
        arguments: of the command line; with ``{clone}`` for the folder.
        tolerance: by how much the states of the first solve may differ, relative to the largest of them. Later states
            and what is printed may differ by ten times as much: the steps of a training amplify what rounding began.
    """

    name: str
    clone: str
    program: str
    arguments: tuple[str, ...]
    tolerance: float


FEW = ("--niters", "8", "--test_freq", "4", "--data_size", "200")

CLIENTS = [
    Client("ode_demo", "torchdiffeq", "examples/ode_demo.py", FEW, 1e-4),
    Client("ode_demo, adjoint", "torchdiffeq", "examples/ode_demo.py", (*FEW, "--adjoint"), 1e-4),
    Client("bouncing_ball", "torchdiffeq", "examples/bouncing_ball.py", ("4",), 1e-6),
    Client("bouncing_ball, adjoint", "torchdiffeq", "examples/bouncing_ball.py", ("4", "--adjoint"), 1e-6),
    # Both libraries are 2e-4 from the solution of the first solve, in single precision.
    Client("cnf", "torchdiffeq", "examples/cnf.py", ("--niters", "3", "--num_samples", "64"), 5e-4),
    Client(
        "cnf, adjoint", "torchdiffeq", "examples/cnf.py", ("--niters", "3", "--num_samples", "64", "--adjoint"), 5e-4
    ),
    Client("latent_ode", "torchdiffeq", "examples/latent_ode.py", ("--niters", "3"), 1e-4),
    Client(
        "latent_ode, adjoint", "torchdiffeq", "examples/latent_ode.py", ("--niters", "3", "--adjoint", "True"), 1e-4
    ),
    Client("learn_physics", "torchdiffeq", "examples/learn_physics.py", ("--num_iterations", "2"), 1e-4),
    Client("cdeint rk4", "torchcde", "cdeint", ("rk4", "steps"), 1e-5),
    Client("cdeint rk4, adjoint", "torchcde", "cdeint", ("rk4", "adjoint"), 1e-5),
    Client("cdeint dopri5", "torchcde", "cdeint", ("dopri5", "steps"), 1e-2),
    Client("cdeint dopri5, adjoint", "torchcde", "cdeint", ("dopri5", "adjoint"), 1e-2),
    Client("cdeint dopri5, jumps known", "torchcde", "cdeint", ("jumps", "steps"), 1e-3),
    Client("cdeint tests", "torchcde", "pytest", ("{clone}/test/test_cdeint.py",), 1e-2),
    Client("flow_matching tests", "flow_matching", "pytest", ("{clone}/tests/solver/test_ode_solver.py",), 1e-4),
]


@dataclass
class Run:
    """What one run gave."""

    code: int
    out: str
    error: str
    states: list[torch.Tensor]
    evaluations: int
    missing: str | None

    @property
    def numbers(self) -> list[float]:
        """What was printed."""
        return [float(each) for each in NUMBER.findall(self.out)]


def run(client, clone, library, limit):
    """Run a client in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(clone / client.program) if client.program.endswith(".py") else client.program
        arguments = [each.format(clone=clone) for each in client.arguments]
        paths = [str(SOURCE), str(clone), *filter(None, [os.environ.get("PYTHONPATH")])]
        # The clone of torchdiffeq is there for its examples; what is imported is the version that is installed.
        if client.clone == "torchdiffeq":
            paths.remove(str(clone))
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
        out = Path(folder) / "found.pt"
        try:
            done = subprocess.run(
                [sys.executable, str(WORKER), library, str(out), program, *arguments],
                capture_output=True, text=True, cwd=folder, env=env, timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Run(1, "", f"not done in {limit} s", [], 0, None)
        found = torch.load(out) if out.exists() else {"states": [], "evaluations": 0, "missing": None}
        return Run(done.returncode, done.stdout, done.stderr, **found)


def difference(ours, theirs):
    """The largest difference of two lists of tensors, relative to the largest number in each; infinite for others."""
    if [len(each) for each in ours] != [len(each) for each in theirs]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if len(a)]
    return max((float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs), default=0.0)


def compared(client, clone, limit):
    """The row of a client."""
    if not clone.is_dir():
        return {"status": "not run", "reason": f"no clone at {clone}"}
    theirs, ours = (run(client, clone, library, limit) for library in LIBRARIES)
    if theirs.code != 0:
        last = [line for line in (theirs.error or theirs.out).strip().splitlines() if line][-1:]
        return {"status": "not run", "reason": theirs.missing or f"fails with torchdiffeq: {''.join(last):.200}"}
    row = {"solves": len(theirs.states), "evaluations": [theirs.evaluations, ours.evaluations]}
    if ours.code != 0:
        return {"status": "failed", "reason": (ours.error or ours.out).strip()[-1500:], **row}
    # What tests say is in their exit code.
    runs = () if client.program == "pytest" else (ours, theirs)
    printed = [[torch.tensor([number]) for number in each.numbers] for each in runs] or [[], []]
    row["states differ by"], row["printed differs by"] = difference(ours.states, theirs.states), difference(*printed)
    row["first solve differs by"] = difference(ours.states[:1], theirs.states[:1])
    later = max(row["states differ by"], row["printed differs by"])
    agree = row["first solve differs by"] <= client.tolerance and later <= 10 * client.tolerance
    return {"status": "agrees" if agree else "disagrees", "allowed": client.tolerance, **row}


def commit(clone):
    """The commit of a clone."""
    done = subprocess.run(["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "not a clone"


def shown(name, row):
    """The row of the printed table."""
    counts = row.get("evaluations", ["", ""])
    keys = "first solve differs by", "states differ by", "printed differs by"
    difference = [f"{row[key]:.1e}" if key in row else "" for key in keys]
    return {
        "client": name, "status": row["status"], "solves": row.get("solves", ""), "evaluations, torchdiffeq": counts[0],
        "here": counts[1], "first solve": difference[0], "all": difference[1], "printed": difference[2],
        "allowed": row.get("allowed", ""), "reason": row.get("reason", "")[:200],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the clones are")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="clients whose names hold this; their rows are replaced"
    )
    parser.add_argument("--jobs", type=int, default=1, help="clients at once (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=600, help="seconds for each run (default: %(default)s)")
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    if not folder.is_dir():
        parser.error(f"no such folder: {folder}; see --help for how to get the clones")
    clients, rows = [client for client in CLIENTS if chosen.only in client.name], {}
    with ThreadPoolExecutor(chosen.jobs) as pool:
        found = pool.map(lambda client: compared(client, folder / client.clone, chosen.limit), clients)
        for client, row in zip(clients, found, strict=True):
            rows[client.name] = row
            print(shown(client.name, row), flush=True)
    if not rows:
        parser.error(f"no client has {chosen.only!r} in its name: {', '.join(each.name for each in CLIENTS)}")
    show("programs for torchdiffeq", [shown(name, row) for name, row in rows.items()])
    commits = {name: commit(folder / name) for name in sorted({client.clone for client in CLIENTS})}
    made = {"commits": commits, "installed": {name: version(name) for name in VERSIONS}}
    print(save("clients", {**made, "clients": {**kept(made), **rows}} if chosen.only else {**made, "clients": rows}))
    sys.exit(any(row["status"] in ("failed", "disagrees") for row in rows.values()))


def kept(made):
    """The rows of the file of before, if they were measured with the same commits and versions."""
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    return before["clients"] if made.items() <= before.items() else {}


def version(name):
    """That of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
