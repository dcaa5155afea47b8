"""The spiral of torchdiffeq's first example: seconds to the loss that its own recipe ends with, ours beside it.

Both begin from the same weights, draw the same windows and take the same steps of RMSprop; what differs is the solver.
Theirs is dopri5 at its defaults, ours the fourth-order method on the grid of the data. Each pair runs in one process,
one after the other in turns, and both losses are measured in the same way, outside the time.
"""

import argparse
import copy
import json
import platform
import statistics
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

import dynamicblocks as db
from dynamicblocks.sequences import MLPField, NeuralODE, Solver

WINDOWS, TIMES, RATE = 20, 10, 1e-3
RESULT = Path(__file__).parent / "results" / "spiral_demo.json"


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


def train(field: nn.Module, solved, t: Tensor, y: Tensor, iterations: int, every: int, seed: int) -> list:
    """Seconds and loss after each so many iterations."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.RMSprop(field.parameters(), lr=RATE)
    seconds, found = 0.0, []
    for step in range(1, iterations + 1):
        begin = perf_counter()
        first = torch.randperm(len(t) - TIMES, generator=draw)[:WINDOWS]
        wanted = y[first[:, None] + torch.arange(TIMES)]
        optimizer.zero_grad()
        (solved(wanted[:, 0], t[:TIMES]) - wanted).abs().mean().backward()
        optimizer.step()
        seconds += perf_counter() - begin
        if step % every == 0:
            found.append({"step": step, "seconds": seconds, "loss": whole_loss(field, t, y)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    import torchdiffeq

    t, y = truth()
    rows = []
    for seed in range(options.pairs):
        torch.manual_seed(seed)
        theirs = MLPField(2, hidden=50, power=3)
        for module in theirs.net:
            if isinstance(module, nn.Linear):  # as the example begins
                nn.init.normal_(module.weight, std=0.1)
                nn.init.zeros_(module.bias)
        ours = NeuralODE(copy.deepcopy(theirs), Solver("rk4"))

        def by_torchdiffeq(y0: Tensor, t: Tensor, field: nn.Module = theirs) -> Tensor:
            return torchdiffeq.odeint(field, y0, t, method="dopri5").movedim(0, 1)

        arguments = (t, y, options.iterations, options.every, seed)
        order = [("theirs", theirs, by_torchdiffeq), ("ours", ours.field, ours)]
        curves = {name: train(field, solved, *arguments) for name, field, solved in order[:: 1 - 2 * (seed % 2)]}
        goal, needed = curves["theirs"][-1]["loss"], curves["theirs"][-1]["seconds"]
        reached = next((each for each in curves["ours"] if each["loss"] <= goal), None)
        row = {"seed": seed, "goal": goal, "seconds_theirs": needed, "reached": reached}
        row["ratio"] = reached["seconds"] / needed if reached else None
        row["ratio_of_all_steps"] = curves["ours"][-1]["seconds"] / needed
        row["loss_ours"] = curves["ours"][-1]["loss"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    record = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchdiffeq": torchdiffeq.__version__},
        "iterations": options.iterations,
        "rows": rows,
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)} if ratios else None,
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
