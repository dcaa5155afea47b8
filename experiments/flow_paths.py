"""One field, three ways to train it: likelihood, flow matching, flow matching with optimal pairs.

Two pairs of base and data in the plane, as in table 2 of Tong et al. 2024: a normal base to eight Gaussians, and eight
Gaussians (as a mixture, whose density is known) to two moons. The field is theirs, three layers of 64 with SELU;
batches of 256, Adam at 1e-3. Flow matching is trained for a number of iterations, the likelihood for as many seconds as
flow matching with optimal pairs took. Told are, of a flow: the negative log-likelihood of 5,000 points held out, the
evaluations of dopri5 at 1e-4 from 2,048 base samples to data, W2 of 1,024 of these samples to as many held-out points,
and the path energy error, |int E|v|^2 dt - W2^2| / W2^2, with W2^2 between 2,048 base samples and held-out points by
exact assignment. Rows that are there are left alone.

    python experiments/flow_paths.py --seeds 0 1 2
    python experiments/flow_paths.py --table
"""

import argparse
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import torch
from common import RESULTS, keep, read
from rich.progress import track
from torch import Tensor

from dynamicblocks.counting import counting
from dynamicblocks.data.densities import toy_sets
from dynamicblocks.draws import generator
from dynamicblocks.flows import Flow, FlowMatching, make_flow, negative_log_likelihood, path_energy, wasserstein2
from dynamicblocks.functional import Solver
from dynamicblocks.training.environment import environment

RESULT = RESULTS / "flow_paths.json"
PAIRS = {"gaussian": "eight_gaussians", "eight_gaussians": "moons"}
OBJECTIVES = ("flow-matching", "ot-flow-matching", "likelihood")
TITLES = {
    "likelihood": "likelihood",
    "flow-matching": "flow matching, independent pairs",
    "ot-flow-matching": "flow matching, optimal pairs",
}
BATCH, RATE, SIGMA = 256, 1e-3, 0.1
HELD_OUT, ASSIGNED, MATCHED = 5_000, 2_048, 1_024
TOLD = Solver(rtol=1e-4, atol=1e-4)
EXACT = Solver(rtol=1e-6, atol=1e-6)
# Path energy errors of table 2 of Tong et al. 2024.
PUBLISHED = {("gaussian", "ot-flow-matching"): 0.018, ("gaussian", "flow-matching"): 0.222}


def losses(flow: Flow, name: str, objective: str, seed: int) -> Iterator[Tensor]:
    """The loss of each iteration, on new points."""
    matching = FlowMatching(SIGMA, "ot" if objective == "ot-flow-matching" else "independent")
    for step in count():
        draws = generator(seed, 1, step)
        x = toy_sets[name](BATCH, draws)[0].float()
        if objective == "likelihood":
            yield negative_log_likelihood(flow, x)[0].mean()
        else:
            yield matching(flow, x, generator=draws).mean()


def trained(flow: Flow, name: str, objective: str, seed: int, iterations: int | None, seconds: float) -> dict:
    """Train for a number of iterations, or for so many seconds."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    begin, made = perf_counter(), 0
    steps = losses(flow, name, objective, seed)
    told = f"{objective}, {name}, seed {seed}"
    for _ in track(range(iterations or 10**9), told, disable=iterations is None):
        if iterations is None and perf_counter() - begin > seconds:
            break
        optimizer.zero_grad()
        next(steps).backward()
        optimizer.step()
        made += 1
    return {"iterations": made, "seconds": perf_counter() - begin}


def measured(flow: Flow, name: str, seed: int) -> dict:
    points = toy_sets[name](HELD_OUT, generator(seed, 2))[0].float()
    with torch.no_grad():
        nll = -torch.cat([flow.with_solver(EXACT).log_prob(part) for part in points.split(1000)]).mean().item()
    base = flow.base.sample(ASSIGNED, generator(seed, 3))
    with counting() as evaluations:
        samples = flow.with_solver(TOLD).sample(ASSIGNED, generator=generator(seed, 4))
    square = wasserstein2(base, points[:ASSIGNED]) ** 2
    energy = path_energy(flow.with_solver(EXACT), ASSIGNED, generator=generator(seed, 3))
    return {
        "nll": nll,
        "evaluations": evaluations.forward,
        "w2_of_samples": wasserstein2(samples[:MATCHED], points[:MATCHED]),
        "w2_of_base_squared": square,
        "path_energy": energy,
        "path_energy_error": abs(energy - square) / square,
    }


def rows(base: str, seed: int, iterations: int) -> Iterator[dict]:
    seconds = 0.0
    for objective in OBJECTIVES:
        torch.manual_seed(seed)
        flow = make_flow(2, field="concat", hidden=(64, 64, 64), activation="selu", base=base)
        name = PAIRS[base]
        made = trained(flow, name, objective, seed, None if objective == "likelihood" else iterations, seconds)
        seconds = made["seconds"]
        yield {
            "base": base,
            "data": name,
            "objective": objective,
            "seed": seed,
            **made,
            **measured(flow, name, seed),
            "batch": BATCH,
            "sigma": SIGMA,
            "learning_rate": RATE,
            "environment": environment(),
        }


def table(found: list[dict]) -> str:
    lines = [
        "| base to data | objective | seconds | iterations | negative log-likelihood | evaluations of dopri5 1e-4 | W2 "
        "of samples | path energy error | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for base, name in PAIRS.items():
        for objective in ("likelihood", "flow-matching", "ot-flow-matching"):
            mine = [each for each in found if (each["base"], each["objective"]) == (base, objective)]
            if not mine:
                continue
            numbers = [spread([each[key] for each in mine], digits) for key, digits in (
                ("seconds", 0), ("iterations", 0), ("nll", 3), ("evaluations", 0), ("w2_of_samples", 3),
                ("path_energy_error", 3),
            )]  # fmt: skip
            published = PUBLISHED.get((base, objective))
            lines.append(
                f"| {base.replace('_', ' ')} to {name.replace('_', ' ')} | {TITLES[objective]} | {' | '.join(numbers)} "
                f"| {'' if published is None else f'{published:.3f}'} |"
            )
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Mean and deviation."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):,.{digits}f} ± {deviation:,.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=sorted(PAIRS), default=sorted(PAIRS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=2_000, help="of flow matching")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.output, "rows")["rows"]))
        return
    for seed in options.seeds:
        for base in options.bases:
            there = read(options.output, "rows")["rows"]
            if any((each["base"], each["seed"]) == (base, seed) for each in there):
                continue
            found = list(rows(base, seed, options.iterations))
            keep(options.output, "rows", lambda record, found=found: record["rows"].extend(found))
            print(table(found), flush=True)
    print(f"Written: {options.output}. For the table: python experiments/flow_paths.py --table")


if __name__ == "__main__":
    main()
