"""Lotka-Volterra from noisy observations: are its four constants found to within one per cent, and by which fit?

Ten trajectories at 100 times in [0, 10], noise 0.05; the last fifth of the time is not trained on. All constants begin
at one. A row for each fit and seed: the whole trajectory at once, a horizon that grows, multiple shooting. Rows that
are there are left alone, and a run that was cut off goes on.

    python experiments/dynamics.py --seeds 0 1 2
"""

import argparse
import platform
from pathlib import Path

import torch
from common import RESULTS, begun, keep, read

from dynamicblocks.sequences import Solver
from dynamicblocks.tasks import Dynamics, DynamicsModel, ShootingConfig, TrajectoryConfig, load_config
from dynamicblocks.training import OptimizerConfig, TrainConfig, Training
from dynamicblocks.training.run_folder import RunFolder

RESULT = RESULTS / "lotka_volterra.json"
TRUE = {"growth": 1.5, "predation": 1.0, "reproduction": 1.0, "death": 3.0}
# How trajectories are followed, and Adam's highest rate: what holds windows together is slow to agree at a lower one.
FITS = {
    "whole": (ShootingConfig(horizon=1.0), 0.03),
    "growing": (ShootingConfig(), 0.03),
    "windows": (ShootingConfig(horizon=1.0, window=11), 0.3),
}


def row(fit: str, seed: int, options: argparse.Namespace) -> dict:
    name = f"lotka_volterra-{fit}-{seed}"
    model = DynamicsModel(equation="lotka_volterra", start="learnt")
    shooting, rate = FITS[fit]
    task = Dynamics(TrajectoryConfig(split_seed=seed), model, Solver("rk4"), shooting)
    optimizer = OptimizerConfig("adam", lr=rate, weight_decay=0.0, warmup=0.05)
    config = TrainConfig(optimizer, epochs=options.epochs, keep="last", seed=seed, output=options.runs, run=name)
    place = begun(options.runs, name)
    if place is not None:
        task, config = load_config(RunFolder.open(place).configuration())
    outcome = Training(task, config, resume=place).run()
    found = {each: outcome.test[f"constant_{each}"] for each in TRUE}
    errors = {each: abs(found[each] / value - 1) for each, value in TRUE.items()}
    return {
        "fit": fit,
        "seed": seed,
        "epochs": options.epochs,
        "rate": rate,
        "constants": found,
        "largest_relative_error": max(errors.values()),
        "rmse": outcome.test["rmse"],
        "rmse_later": outcome.test["rmse_later"],
        "seconds": outcome.seconds,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    for seed in options.seeds:
        for fit in options.fits:
            there = {(each["fit"], each["seed"]) for each in read(options.output, "rows")["rows"]}
            if (fit, seed) not in there:
                new = row(fit, seed, options)
                keep(options.output, "rows", lambda record, new=new: record["rows"].append(new))
                print(new, flush=True)


if __name__ == "__main__":
    main()
