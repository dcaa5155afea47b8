"""Training by the defaults beside training with --fast: throughput of the whole step, in turn, on the same machine.

Two subjects: ``dynamicblocks train`` as it is (digits), and ContinuousNet on CIFAR-10. Each side is a training of its
own (its batches, its network, its optimiser) with what was chosen for it. Target: at least 0.95 of what --fast reaches.
CIFAR-10 is read from ``--data_dir`` (its official layout), or else is downloaded.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from harness import make_parser, paired, save, show
from rich.console import Console

from dynamicblocks.tasks import Classify, DataConfig, ModelConfig
from dynamicblocks.training import HardwareConfig, TrainConfig, Training

TARGET = 0.95
# Steps in a turn, so that a turn takes about a second.
TURNS = {"digits": 20, "cifar10": 5}


def subjects(data_dir: str | None) -> dict[str, Classify]:
    """What is trained."""
    images = DataConfig(name="cifar10", data_dir=data_dir)
    return {"digits": Classify(), "cifar10": Classify(data=images, model=ModelConfig("continuousnet"))}


def training(task: Classify, output: str, *, fast: bool, epochs: int) -> Training:
    """A training that has begun."""
    run = "fast" if fast else "defaults"
    config = TrainConfig(epochs=epochs, output=output, run=run, hardware=HardwareConfig(fast=fast))
    return Training(task, config, console=Console(quiet=True))


def endless(begun: Training) -> Iterator[Any]:
    """The batches of all epochs."""
    for epoch in count():
        yield from begun.batches.training(epoch)


def steps(begun: Training, number: int) -> Callable[[], object]:
    """So many steps of it, batches included."""
    batches = endless(begun)
    begun.net.train()

    def run() -> None:
        for _ in range(number):
            loss, _ = begun.engine.loss(next(batches))
            begun.engine.step(loss)

    return run


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, "python benchmarks/default_choices.py --data_dir data/cifar --repeats 9", repeats=9)
    parser.add_argument("--data_dir", help="folder with CIFAR-10")
    parser.add_argument("--epochs", type=int, default=30, help="of the trainings chosen for (default: %(default)s)")
    parser.add_argument("--only", choices=TURNS, help="one subject")
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows, found = [], {}
    for name, task in subjects(options.data_dir).items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as output:
            fast, defaults = (training(task, output, fast=fast, epochs=options.epochs) for fast in (True, False))
            result = paired(steps(fast, TURNS[name]), steps(defaults, TURNS[name]), options.repeats)
            chosen = {side.folder.path.name: side.folder.record()["chosen"] for side in (fast, defaults)}
        found[name] = {"chosen": chosen, "fast_over_defaults_seconds": result.as_dict()}
        for side, choices in chosen.items():
            print(f"{name}, {side}: { ({choice: each['value'] for choice, each in choices.items()}) }")
        rows.append(
            {
                "training": name,
                "throughput, defaults / --fast": result.ratios,
                "of minima": f"{result.ratio_of_minima:.3f}",
                "target": f"{TARGET}, {'met' if result.ratios.median >= TARGET else 'missed'}",
            }
        )
    show(f"Steps of training, {torch.get_num_threads()} threads", rows)
    if options.only is None:
        print(save("default_choices", {"target": TARGET, "epochs": options.epochs, "trainings": found}))


if __name__ == "__main__":
    main()
