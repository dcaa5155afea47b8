"""A flow trained by its likelihood, ours beside torchdiffeq's: what is learnt, and how long an iteration takes.

The model of torchdiffeq's example of a continuous normalizing flow (its field, 64 hidden units whose weights a network
of width 32 makes of the time; from 0 to 10; dopri5 at 1e-5, the adjoint equation at the same; 512 new points an
iteration, Adam at 3e-3) is trained with torchdiffeq, whose trace is made by backward passes, and as
``make_flow(field="hyper")``, whose trace has a closed form. Both see the same points. They take their iterations by
turns, so what slows the machine slows both, and every iteration is timed. Both are weighed on the same 10,000 points
held out. Rows that are there are left alone.

    python experiments/flow_likelihood.py --sets circles moons --seeds 0 1 2
    python experiments/flow_likelihood.py --table
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from common import RESULTS, keep, read
from rich.progress import track
from sklearn.datasets import make_circles, make_moons
from torch import Tensor, nn

import torchdiffeq
from dynamicblocks.flows import make_flow
from dynamicblocks.functional import Solver
from dynamicblocks.training.environment import environment

RESULT = RESULTS / "flow_likelihood.json"
SETS = {
    "circles": lambda number, seed: make_circles(number, noise=0.06, factor=0.5, random_state=seed)[0],
    "moons": lambda number, seed: make_moons(number, noise=0.06, random_state=seed)[0],
}
BATCH, RATE, TOLERANCE, HORIZON, HELD_OUT = 512, 3e-3, 1e-5, 10.0, 10_000
UNITS, WIDTH = 64, 32
VARIANCE = 0.1  # of the example's base


class PeerField(nn.Module):
    """The example's field with the rate of the log-density, by a backward pass for each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, UNITS * 7)
        )

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x = state[0]
        w, u, gate, b = self.net(t.reshape(1, 1))[0].split((2 * UNITS, 2 * UNITS, 2 * UNITS, UNITS))
        w, u = w.reshape(UNITS, 2, 1), (u * torch.sigmoid(gate)).reshape(UNITS, 1, 2)
        with torch.enable_grad():
            x.requires_grad_(True)
            hidden = torch.tanh(torch.matmul(x.expand(UNITS, -1, -1), w) + b.reshape(UNITS, 1, 1))
            slope = torch.matmul(hidden, u).mean(0)
            trace = sum(
                torch.autograd.grad(slope[:, place].sum(), x, create_graph=True)[0][:, place] for place in range(2)
            )
        return slope, -trace[:, None]


class Peer(nn.Module):
    """The example's model under torchdiffeq's adjoint."""

    def __init__(self) -> None:
        super().__init__()
        self.field = PeerField()

    def log_prob(self, x: Tensor) -> Tensor:
        start = x, x.new_zeros(len(x), 1)
        z, change = torchdiffeq.odeint_adjoint(
            self.field, start, x.new_tensor([HORIZON, 0.0]), rtol=TOLERANCE, atol=TOLERANCE, method="dopri5"
        )
        base = torch.distributions.MultivariateNormal(torch.zeros(2), VARIANCE * torch.eye(2))
        return base.log_prob(z[-1]) - change[-1, :, 0]


def batches(name: str, seed: int, number: int) -> Iterator[Tensor]:
    for place in range(number):
        yield points(name, BATCH, 1_000_000 * (seed + 1) + place)


def points(name: str, number: int, seed: int) -> Tensor:
    return torch.from_numpy(SETS[name](number, seed).astype(np.float32))


def iteration(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    begin = perf_counter()
    optimizer.zero_grad()
    loss = -model.log_prob(x).mean()
    loss.backward()
    optimizer.step()
    return perf_counter() - begin


def row(name: str, seed: int, iterations: int) -> dict:
    solver = Solver(rtol=TOLERANCE, atol=TOLERANCE, gradient="adjoint", max_steps=100_000)
    torch.manual_seed(seed)
    models = {"torchdiffeq": Peer()}
    torch.manual_seed(seed)
    models["dynamicblocks"] = make_flow(
        2, field="hyper", hidden=(UNITS, WIDTH), horizon=HORIZON, solver=solver,
        mean=torch.zeros(2), std=torch.full((2,), VARIANCE**0.5),
    )  # fmt: skip
    optimizers = {key: torch.optim.Adam(model.parameters(), lr=RATE) for key, model in models.items()}
    seconds: dict[str, list[float]] = {key: [] for key in models}
    for place, x in enumerate(track(batches(name, seed, iterations), f"{name}, seed {seed}", iterations)):
        order = list(models) if place % 2 else list(models)[::-1]
        for key in order:
            seconds[key].append(iteration(models[key], optimizers[key], x.clone()))
    held_out = points(name, HELD_OUT, 7 + seed)
    found = {}
    for key, model in models.items():
        with torch.no_grad():
            nll = -torch.cat([model.log_prob(part.clone()) for part in held_out.split(2000)]).mean().item()
        found[key] = {"nll": nll, "seconds": sum(seconds[key]), "seconds_an_iteration": median(seconds[key])}
    ratios = [ours / theirs for ours, theirs in zip(seconds["dynamicblocks"], seconds["torchdiffeq"], strict=True)]
    return {
        "set": name, "seed": seed, "iterations": iterations, "batch": BATCH, "tolerance": TOLERANCE, **found,
        "nll_above_torchdiffeq": found["dynamicblocks"]["nll"] - found["torchdiffeq"]["nll"],
        "ratio_of_seconds": sum(seconds["dynamicblocks"]) / sum(seconds["torchdiffeq"]),
        "ratio_an_iteration": {
            "lower_quartile": sorted(ratios)[len(ratios) // 4],
            "median": median(ratios),
            "upper_quartile": sorted(ratios)[3 * len(ratios) // 4],
        },
        "torchdiffeq_version": torchdiffeq.__version__,
        "environment": environment(),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    lines = [
        "| set | seed | iterations | torchdiffeq (nats) | this package (nats) | difference | seconds an iteration, "
        "torchdiffeq | this package | ratio: median [quartiles] |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in sorted(rows, key=lambda each: (each["set"], each["seed"])):
        theirs, ours, ratio = each["torchdiffeq"], each["dynamicblocks"], each["ratio_an_iteration"]
        lines.append(
            f"| {each['set']} | {each['seed']} | {each['iterations']:,} | {theirs['nll']:.3f} | {ours['nll']:.3f} | "
            f"{each['nll_above_torchdiffeq']:+.3f} | {theirs['seconds_an_iteration']:.2f} | "
            f"{ours['seconds_an_iteration']:.2f} | {ratio['median']:.2f} [{ratio['lower_quartile']:.2f}, "
            f"{ratio['upper_quartile']:.2f}] |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=sorted(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.output, "rows")["rows"]))
        return
    for seed in options.seeds:
        for name in options.sets:
            there = read(options.output, "rows")["rows"]
            if any((each["set"], each["seed"]) == (name, seed) for each in there):
                continue
            found = row(name, seed, options.iterations)
            keep(options.output, "rows", lambda record, found=found: record["rows"].append(found))
            print(table([found]).splitlines()[-1], flush=True)
    print(f"Written: {options.output}. For the table: python experiments/flow_likelihood.py --table")


if __name__ == "__main__":
    main()
