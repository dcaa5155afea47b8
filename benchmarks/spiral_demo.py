"""The spiral of torchdiffeq's first example: seconds to the loss that its own recipe ends with, ours beside it.

Theirs is the recipe of the example: dopri5 at its defaults, 2,000 steps of RMSprop at a constant rate, each on 20
windows of ten times that are drawn at random. Ours begins from the same weights. The observations have no noise and the
windows that cover the trajectory are few, so that it fits all of them at once, by L-BFGS: with the same solve
(``dopri5``, the same tolerances) and with the fourth-order method on the grid of the data (``rk4``). What is due to
the solver alone is beside it: torchdiffeq in our recipe, and a step of theirs with our dopri5 (``same recipe``).

Losses are of the whole trajectory at the end of each recipe, which is not chosen by them, measured by the same solve
and outside the time. Times are of the processor, one thread, so that other work on the machine does not count.

Example: python benchmarks/spiral_demo.py --seeds 0 1 2
"""

import argparse
import copy
import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

import dynamicblocks as db
import torchdiffeq
from dynamicblocks.sequences import MLPField, NeuralODE, Solver

WINDOWS, TIMES, RATE, STEPS = 20, 10, 1e-3, 2000
# Iterations of L-BFGS; steps from which the time of one is told.
ITERATIONS, FEW = 240, 100
RESULT = Path(__file__).parent / "results" / "spiral_demo.json"
# Tolerances of dopri5 as torchdiffeq has them by default.
SAME = Solver("dopri5", rtol=1e-7, atol=1e-9)
Solved = Callable[[Tensor, Tensor], Tensor]


def truth() -> tuple[Tensor, Tensor]:
    t = torch.linspace(0.0, 25.0, 1000)
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    with torch.no_grad():
        y = db.odeint(lambda _, y: y**3 @ matrix, torch.tensor([[2.0, 0.0]]), t, method="dopri5")
    return t, y[:, 0]


def whole_loss(field: nn.Module, t: Tensor, y: Tensor) -> float:
    """The mean absolute error over the whole trajectory."""
    with torch.no_grad():
        return float((db.odeint(field, y[:1], t, method="dopri5")[:, 0] - y).abs().mean())


def by_rmsprop(field: nn.Module, solved: Solved, t: Tensor, y: Tensor, steps: int, seed: int) -> float:
    """The recipe of the example; its seconds."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.RMSprop(field.parameters(), lr=RATE)
    begin = process_time()
    for _ in range(steps):
        first = torch.randperm(len(t) - TIMES, generator=draw)[:WINDOWS]
        wanted = y[first[:, None] + torch.arange(TIMES)]
        optimizer.zero_grad()
        (solved(wanted[:, 0], t[:TIMES]) - wanted).abs().mean().backward()
        optimizer.step()
    return process_time() - begin


def by_lbfgs(field: nn.Module, solved: Solved, t: Tensor, y: Tensor) -> float:
    """All windows that cover the trajectory, at once; its seconds."""
    begin = process_time()
    first = torch.arange(0, len(t) - TIMES + 1, TIMES - 1)
    wanted = y[first[:, None] + torch.arange(TIMES)]
    optimizer = torch.optim.LBFGS(
        field.parameters(), max_iter=ITERATIONS, history_size=50, tolerance_grad=0.0, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = (solved(wanted[:, 0], t[:TIMES]) - wanted).square().mean()
        found.backward()
        return found

    optimizer.step(loss)
    return process_time() - begin


def by_torchdiffeq(field: nn.Module) -> Solved:
    return lambda y0, t: torchdiffeq.odeint(field, y0, t, method="dopri5").movedim(0, 1)


def row(seed: int, t: Tensor, y: Tensor) -> dict[str, Any]:
    """All of one seed, from the same weights."""
    torch.manual_seed(seed)
    begin = MLPField(2, hidden=50, power=3)
    for module in begin.net:
        if isinstance(module, nn.Linear):  # as the example begins
            nn.init.normal_(module.weight, std=0.1)
            nn.init.zeros_(module.bias)

    def fields() -> tuple[nn.Module, dict[str, Solved]]:
        field = copy.deepcopy(begin)
        ours = {"dopri5": NeuralODE(field, SAME), "rk4": NeuralODE(field, Solver("rk4"))}
        return field, {"torchdiffeq": by_torchdiffeq(field), **ours}

    def step_seconds(name: str) -> float:
        field, solved = fields()
        return by_rmsprop(field, solved[name], t, y, FEW, seed) / FEW

    step_seconds("dopri5"), step_seconds("torchdiffeq")  # warm
    steps = {name: min(step_seconds(name), step_seconds(name)) for name in ("dopri5", "torchdiffeq")}
    ends = {}
    for name in ("rk4", "dopri5", "torchdiffeq"):
        field, solved = fields()
        seconds = by_lbfgs(field, solved[name], t, y)
        ends[name] = {"loss": whole_loss(field, t, y), "seconds": seconds}
    field, solved = fields()
    seconds = by_rmsprop(field, solved["torchdiffeq"], t, y, STEPS, seed)
    for each in ends.values():
        each["ratio"] = each["seconds"] / seconds
    return {
        "seed": seed,
        "theirs": {"loss": whole_loss(field, t, y), "seconds": seconds},
        "lbfgs": ends,
        "same recipe, ratio of a step": steps["dopri5"] / steps["torchdiffeq"],
    }


def middle(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most over the seeds."""
    found: dict[str, Any] = {"theirs": {"loss": middle([each["theirs"]["loss"] for each in rows])}}
    for name in ("torchdiffeq", "dopri5", "rk4"):
        found[f"{name}, L-BFGS"] = {
            key: middle([each["lbfgs"][name][key] for each in rows]) for key in ("loss", "ratio")
        }
    found["dopri5, same recipe"] = {"ratio": middle([each["same recipe, ratio of a step"] for each in rows])}
    return found


def processor() -> str:
    """Its name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    t, y = truth()
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        rows.append(row(seed, t, y))
        print(json.dumps(rows[-1]), flush=True)
        record = {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "versions": {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__},
            "steps": STEPS,
            "iterations": ITERATIONS,
            "summary": summary(rows),
            "rows": rows,
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
