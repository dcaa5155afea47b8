"""Five seeds of the default training, and of the plain residual network with the same number of weights.

Each network is trained once and then evaluated, without any further training, under other integrators and step
counts. A network of continuous depth keeps its accuracy; a plain residual network, whose weights know one step size
only, does not.

Example: python experiments/digits_manifestation.py --seeds 5
"""

import argparse
import json
import statistics
import tempfile
from datetime import date
from pathlib import Path

from rich.console import Console

from dynamicblocks.tasks.classify import Classify
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.training import TrainConfig, Training
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import recorded

RESULT = Path(__file__).parent / "results" / "digits_manifestation.json"

MODELS = {
    "continuous": ModelConfig(),
    # Three constant controls a block hold as many weights as the three knots of two linear intervals.
    "plain ResNet": ModelConfig(name="dynamicnet", widths=(24, 48), units=3, controls="constant", integrator="euler"),
}


def trained(name: str, seed: int, folder: str) -> dict:
    """One training and its manifestations."""
    task = Classify(model=MODELS[name])
    config = TrainConfig(seed=seed, output=folder, run=f"{name}-{seed}")
    training = Training(task, config, console=Console(quiet=True))
    outcome = training.run()
    return {
        "model": name,
        "seed": seed,
        "weights": outcome.weights,
        "test_accuracy": outcome.test["accuracy"],
        "validation_accuracy": outcome.validation["accuracy"],
        "training_seconds": round(outcome.seconds, 2),
        "data": RunFolder(outcome.folder).record()["data"],
        "manifestations": [other.as_record(task.unit) for other in outcome.manifestations],
    }


def summary(runs: list[dict]) -> dict:
    """Mean and spread over the seeds of each model."""
    result = {}
    for name in MODELS:
        mine = [run for run in runs if run["model"] == name]
        accuracies = [run["test_accuracy"] for run in mine]
        result[name] = {
            "weights": mine[0]["weights"],
            "test_accuracy_mean": round(statistics.mean(accuracies), 5),
            "test_accuracy_stdev": round(statistics.stdev(accuracies), 5) if len(mine) > 1 else None,
            "training_seconds_max": max(run["training_seconds"] for run in mine),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 (default 5)")
    seeds = parser.parse_args().seeds
    runs = []
    for seed in range(seeds):
        for name in MODELS:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(trained(name, seed, folder))
            print(f"{name}, seed {seed}: {runs[-1]['test_accuracy']:.2%} in {runs[-1]['training_seconds']:.1f} s")
    configurations = {name: recorded(Classify(model=model), TrainConfig()) for name, model in MODELS.items()}
    record = {"date": f"{date.today()}", **environment(), "configurations": configurations}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**record, "summary": summary(runs), "runs": runs}, indent=1) + "\n")
    print(json.dumps(summary(runs), indent=2))
    print(f"written to {RESULT}; draw it with: python docs/figures/manifestation.py")


if __name__ == "__main__":
    main()
