"""ODE-Net, RK-Net and the residual network on MNIST, after the same few epochs.

The same recipe for each. A training is a row of ``results/odenet_mnist.json``; rows that are there are not trained
again, and a training that was cut off goes on from its last checkpoint.

Example: python experiments/odenet_mnist.py --data_dir data
"""

import argparse
import os
from datetime import date
from time import process_time

import torch
from common import HERE, RESULTS, begun, keep, put_table, read, told

from dynamicblocks.tasks.classify import Classify, DataConfig
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.training import Training
from dynamicblocks.training.config import HardwareConfig, OptimizerConfig, TrainConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder

RESULT = RESULTS / "odenet_mnist.json"
DOCUMENTS = (HERE / "README.md", HERE.parent / "docs" / "odenet.md")
BEGIN, END = "<!-- table: python experiments/odenet_mnist.py --table -->", "<!-- end of MNIST -->"
EPOCHS = 4
OPTIMIZER = OptimizerConfig(lr=0.1, momentum=0.9, schedule="cosine", warmup=0.15)
# Fixed, so that all networks are trained in the same way.
HARDWARE = HardwareConfig(accelerator="cpu", precision="32-true", channels_last=False, compile=False)
NETWORKS = {
    "ODE-Net": ModelConfig(name="odenet"),
    "RK-Net": ModelConfig(name="rknet"),
    "ResNet": ModelConfig(name="odenet_resnet"),
}
# Test error in percent after 160 epochs (Chen et al. 2018, arXiv:1806.07366, table 1).
PUBLISHED = {"ODE-Net": 0.42, "RK-Net": 0.47, "ResNet": 0.41}


def train(name: str, options: argparse.Namespace) -> dict:
    """One training; what came out, without where the data lay."""
    task = Classify(
        data=DataConfig(name="mnist", data_dir=options.data_dir, validation=0.02, batch_size=128, test_batch_size=500),
        model=NETWORKS[name],
    )
    config = TrainConfig(
        optimizer=OPTIMIZER,
        hardware=HARDWARE,
        epochs=EPOCHS,
        keep="last",
        seed=options.seed,
        output=options.output,
        run=f"mnist_{task.model.name}_{options.seed}",
    )
    resume = begun(options.output, config.run)
    training = Training(task, config, resume=resume)
    before = process_time()
    outcome = training.run()
    return {
        "network": name,
        "seed": options.seed,
        "date": f"{date.today()}",
        "weights": outcome.weights,
        "test_error": 1 - outcome.test["accuracy"],
        "validation_error": 1 - outcome.validation["accuracy"],
        "training_seconds": outcome.seconds,
        # Of a training that was cut off, those of the rest.
        "processor_seconds": process_time() - before,
        "resumed": resume is not None,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "note": options.note,
        **told(RunFolder(outcome.folder), options.data_dir),
        **environment(),
    }


def table() -> str:
    """The record as Markdown."""
    rows = {row["network"]: row for row in read(RESULT, "rows")["rows"]}
    lines = [
        "| network | weights | test error | published, 160 epochs | evaluations of a step: forward | backward | "
        "seconds of a processor core |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        row = rows.get(name)
        cells = ["not measured"] * 5
        if row is not None:
            last = row["epochs"][-1]
            cells = [
                f"{row['weights']:,}",
                f"{row['test_error']:.2%}",
                f"{last['evaluations_forward']:.1f}",
                f"{last['evaluations_backward']:.1f}",
                f"{row['processor_seconds']:.0f}",
            ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {PUBLISHED[name]:.2f} % | {' | '.join(cells[2:])} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="local copy of MNIST; by default it is downloaded")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default 0)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default all")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
        return
    for name in options.networks:
        if any((row["network"], row["seed"]) == (name, options.seed) for row in read(RESULT, "rows")["rows"]):
            continue
        row = train(name, options)
        keep(RESULT, "rows", lambda found, row=row: found["rows"].append(row))
        print(f"{name}: test error {row['test_error']:.2%}, {row['processor_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
