"""Does a twist help on CIFAR-10? Networks with and without, at equal weights and at equal cost, a small fixed budget.

Example: python experiments/cifar10_twist.py --data_dir data --seeds 0 1 2
"""

import argparse
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median

from common import RESULTS, begun, keep, read, told, training_step
from torch import nn

from dynamicblocks.network import num_weights
from dynamicblocks.tasks.classify import Classify, DataConfig
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.training import Training
from dynamicblocks.training.config import HardwareConfig, OptimizerConfig, TrainConfig, TwistConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder

RESULT = RESULTS / "cifar10_twist.json"
PLAIN, VECTOR = TwistConfig(), TwistConfig(parametrisation="vector")


# The fast recipe of the published networks, in small.
OPTIMIZER = OptimizerConfig(name="muon", lr=0.2, kernel_lr=0.02, kernel_decay=0.04, schedule="linear", warmup=0.1)
LABEL_SMOOTHING = 0.1
SLOW_TWIST = replace(OPTIMIZER, twist_lr=0.1 * OPTIMIZER.kernel_lr)

Network = tuple[ModelConfig, TwistConfig, OptimizerConfig]


def resnet18(width: int, stages: str, optimizer: OptimizerConfig = OPTIMIZER) -> Network:
    return ModelConfig(name="twist_resnet18", width=width, stages=stages), PLAIN, optimizer


def continuousnet(width: int, twist: TwistConfig, optimizer: OptimizerConfig = OPTIMIZER) -> Network:
    return ModelConfig(name="continuousnet", units=2, width=width, initial="torch"), twist, optimizer


# Widths: of equal weights, the next that has as many; of equal cost, the next multiple of 8 whose training step takes
# at least as long (``--speed`` measures it). A slow twist has a tenth of the learning rate of other kernels.
NETWORKS = {
    "ResNet-18, width 16, plain": resnet18(16, "FFFF"),
    "ResNet-18, width 16, twist": resnet18(16, "TTTT"),
    "ResNet-18, width 16, slow twist": resnet18(16, "TTTT", SLOW_TWIST),
    "ResNet-18, equal weights": resnet18(23, "FFFF"),
    "ResNet-18, equal cost": resnet18(32, "FFFF"),
    "ContinuousNet, width 16, plain": continuousnet(16, PLAIN),
    "ContinuousNet, width 16, twist": continuousnet(16, VECTOR),
    "ContinuousNet, width 16, slow twist": continuousnet(16, VECTOR, SLOW_TWIST),
    "ContinuousNet, equal weights": continuousnet(23, PLAIN),
    "ContinuousNet, equal cost": continuousnet(32, PLAIN),
}
# Fixed, so that all networks are trained in the same way on the same machine.
HARDWARE = HardwareConfig(precision="bf16-mixed", channels_last=True, compile=False)
PROGRESSIVE = ((0.0, 16), (0.5, 28))
BATCH = 128


def config_of(name: str, seed: int, options: argparse.Namespace) -> tuple[Classify, TrainConfig]:
    model, twist, optimizer = NETWORKS[name]
    data = DataConfig(
        name="cifar10",
        data_dir=options.data_dir,
        batch_size=BATCH,
        test_batch_size=500,
        validation=0.02,
        progressive=PROGRESSIVE,
    )
    config = TrainConfig(
        twist=twist,
        optimizer=optimizer,
        hardware=replace(HARDWARE, accelerator=options.accelerator),
        epochs=options.epochs,
        keep="last",
        max_steps=options.steps,
        seed=seed,
        output=options.output,
        run=f"{name.replace(',', '').replace(' ', '_')}_{seed}",
    )
    return Classify(data=data, model=model, label_smoothing=LABEL_SMOOTHING), config


def train(name: str, seed: int, options: argparse.Namespace) -> dict:
    """One training; what came out, without where the data lay."""
    task, config = config_of(name, seed, options)
    outcome = Training(task, config, resume=begun(options.output, config.run)).run()
    return {
        "network": name,
        "seed": seed,
        "date": f"{date.today()}",
        "weights": outcome.weights,
        "test_accuracy": outcome.test["accuracy"],
        "validation_accuracy": outcome.validation["accuracy"],
        "training_minutes": round(outcome.seconds / 60, 2),
        **told(RunFolder(outcome.folder), options.data_dir),
        **environment(),
    }


def speeds(repeats: int) -> dict[str, dict]:
    """Images a second of a training step on whole images, the networks in turn."""
    steps = {name: training_step(build(name), BATCH) for name in NETWORKS}
    for step in steps.values():
        step()
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            found[name].append(step())
    return {
        name: {"images_per_second": BATCH / median(taken), "seconds": taken, "weights": num_weights(build(name))}
        for name, taken in found.items()
    }


def build(name: str) -> nn.Module:
    model, twist, _ = NETWORKS[name]
    net = model.create(3, 10)
    return twist.twist(net) if twist.turned_on(epoch=0) else net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="local copy of CIFAR-10; by default it is downloaded")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the trainings (default 0 1 2)")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="default all")
    parser.add_argument("--epochs", type=int, default=2, help="of each training (default 2)")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--speed", type=int, default=0, help="rounds in which images/s are measured (default none)")
    parser.add_argument("--accelerator", default="auto", help="of the trainings: auto (default), cpu, cuda")
    parser.add_argument("--steps", type=int, help="stop each training after so many, for a trial")
    parser.add_argument("--result", type=Path, default=RESULT, help="file of the results (default results/)")
    options = parser.parse_args()
    if options.speed:
        measured = {"date": f"{date.today()}", **environment(), "networks": speeds(options.speed)}
        keep(options.result, "runs", lambda record: record.update(speed=measured))
        for name, each in measured["networks"].items():
            print(f"{name}: {each['weights']:,} weights, {each['images_per_second']:.0f} images/s")
    for seed in options.seeds:
        for name in options.networks:
            runs = read(options.result, "runs")["runs"]
            if any((run["network"], run["seed"]) == (name, seed) for run in runs):
                print(f"{name}, seed {seed}: measured before, in {options.result}")
                continue
            found = train(name, seed, options)
            keep(options.result, "runs", lambda record, found=found: record["runs"].append(found))
            minutes = found["training_minutes"]
            print(f"{name}, seed {seed}: {found['test_accuracy']:.2%} in {minutes} min; in {options.result}")


if __name__ == "__main__":
    main()
