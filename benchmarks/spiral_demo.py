"""The spiral of torchdiffeq's first example: seconds to the loss that its own recipe ends with, ours beside it.

All begin from the same weights, draw the same windows and take as many steps of RMSprop. Theirs is dopri5 at its
defaults at a constant rate. Ours are the same solve (``dopri5``), the fourth-order method on the grid of the data
(``rk4``), and that with a rate that falls along a cosine (``rk4, falling rate``), because at a constant one the loss
goes up and down between steps. Each seed runs in one process, one after the other in turns; losses are of the whole
trajectory, all measured by the same solve, outside the time.

Example: python benchmarks/spiral_demo.py --pairs 3
"""

import argparse
import copy
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import dynamicblocks as db
import torchdiffeq
from dynamicblocks.sequences import MLPField, NeuralODE, Solver

WINDOWS, TIMES, RATE = 20, 10, 1e-3
RESULT = Path(__file__).parent / "results" / "spiral_demo.json"
# Tolerances of dopri5 as torchdiffeq has them by default.
OURS = {
    "dopri5": (Solver("dopri5", rtol=1e-7, atol=1e-9), False),
    "rk4": (Solver("rk4"), False),
    "rk4, falling rate": (Solver("rk4"), True),
}


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


def train(
    field: nn.Module, solved, falling: bool, t: Tensor, y: Tensor, iterations: int, every: int, seed: int
) -> list[dict[str, float]]:
    """Seconds and loss after each so many iterations."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.RMSprop(field.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations) if falling else None
    seconds, found = 0.0, []
    for step in range(1, iterations + 1):
        begin = perf_counter()
        first = torch.randperm(len(t) - TIMES, generator=draw)[:WINDOWS]
        wanted = y[first[:, None] + torch.arange(TIMES)]
        optimizer.zero_grad()
        (solved(wanted[:, 0], t[:TIMES]) - wanted).abs().mean().backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        seconds += perf_counter() - begin
        if step % every == 0:
            found.append({"step": step, "seconds": seconds, "loss": whole_loss(field, t, y)})
    return found


def pair(seed: int, t: Tensor, y: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """All of one seed, from the same weights."""
    torch.manual_seed(seed)
    begin = MLPField(2, hidden=50, power=3)
    for module in begin.net:
        if isinstance(module, nn.Linear):  # as the example begins
            nn.init.normal_(module.weight, std=0.1)
            nn.init.zeros_(module.bias)

    def trained(name: str) -> list[dict[str, float]]:
        field = copy.deepcopy(begin)
        solver, falling = OURS.get(name, (None, False))
        solved = by_torchdiffeq(field) if solver is None else NeuralODE(field, solver)
        return train(field, solved, falling, t, y, options.iterations, options.every, seed)

    order = ["theirs", *OURS]
    curves = {name: trained(name) for name in order[:: 1 - 2 * (seed % 2)]}
    theirs = curves.pop("theirs")
    goal, needed = theirs[-1]["loss"], theirs[-1]["seconds"]
    ours = {}
    for name, curve in curves.items():
        reached = next((each for each in curve if each["loss"] <= goal), None)
        ours[name] = {
            "loss": curve[-1]["loss"],
            "ratio": curve[-1]["seconds"] / needed,
            "first_reached_ratio": reached["seconds"] / needed if reached else None,
        }
    best = min(each["loss"] for each in theirs)
    return {"seed": seed, "loss_theirs": goal, "lowest_theirs": best, "seconds_theirs": needed, "ours": ours}


def by_torchdiffeq(field: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda y0, t: torchdiffeq.odeint(field, y0, t, method="dopri5").movedim(0, 1)


def spread(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most of the ratios of time and of the losses."""
    return {
        key: {"median": statistics.median(found), "least": min(found), "most": max(found)}
        for key in ("ratio", "loss")
        if (found := [one[key] for one in each])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    t, y = truth()
    rows = []
    for seed in range(options.pairs):
        row = pair(seed, t, y, options)
        rows.append(row)
        print(json.dumps(row), flush=True)
    record = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__},
        "iterations": options.iterations,
        "rows": rows,
        "ours": {name: spread([row["ours"][name] for row in rows]) for name in OURS},
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
