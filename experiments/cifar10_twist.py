"""Does a twist help on CIFAR-10? Networks with and without, at equal weights and at equal cost, a small fixed budget.

Example: python experiments/cifar10_twist.py --data_dir data --seeds 0 1 2
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamicblocks.network import DynamicNet
from dynamicblocks.training import Training
from dynamicblocks.training.config import (
    DataConfig,
    HardwareConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TwistConfig,
)
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder

RESULT = Path(__file__).parent / "results" / "cifar10_twist.json"
PLAIN, VECTOR = TwistConfig(), TwistConfig(parametrisation="vector")


# The fast recipe of the published networks, in small.
OPTIMIZER = OptimizerConfig(
    name="muon", lr=0.2, kernel_lr=0.02, kernel_decay=0.04, schedule="linear", warmup=0.1, label_smoothing=0.1
)
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


def config_of(name: str, seed: int, epochs: int, data_dir: str | None, output: str) -> TrainConfig:
    model, twist, optimizer = NETWORKS[name]
    data = DataConfig(
        name="cifar10",
        data_dir=data_dir,
        batch_size=BATCH,
        test_batch_size=500,
        validation=0.02,
        progressive=PROGRESSIVE,
    )
    return TrainConfig(
        data=data,
        model=model,
        twist=twist,
        optimizer=optimizer,
        hardware=HARDWARE,
        epochs=epochs,
        keep="last",
        seed=seed,
        output=output,
        run=f"{name.replace(',', '').replace(' ', '_')}_{seed}",
    )


def train(name: str, seed: int, epochs: int, data_dir: str | None, output: str) -> dict:
    """One training; what came out, without where the data lay."""
    config = config_of(name, seed, epochs, data_dir, output)
    training = Training(config)
    outcome = training.run()
    folder = RunFolder(outcome.folder)
    used = config.as_dict()
    used["data"]["data_dir"], used["output"] = None, "runs"
    data = folder.record()["data"].replace(f"local copy in {data_dir}", "local copy in the official layout")
    return {
        "network": name,
        "seed": seed,
        "date": f"{date.today()}",
        "weights": outcome.weights,
        "test_accuracy": outcome.test.accuracy,
        "validation_accuracy": outcome.validation.accuracy,
        "training_minutes": round(outcome.seconds / 60, 2),
        "data": data,
        "configuration": used,
        "epochs": folder.metrics(),
        **environment(),
    }


def speeds(repeats: int) -> dict[str, dict]:
    """Images a second of a training step on whole images, the networks in turn."""
    steps = {name: _training_step(_build(name)) for name in NETWORKS}
    for step in steps.values():
        step()
        step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            found[name].append(step())
    return {
        name: {"images_per_second": BATCH / median(taken), "seconds": taken, "weights": _build(name).num_weights}
        for name, taken in found.items()
    }


def _build(name: str) -> DynamicNet:
    model, twist, _ = NETWORKS[name]
    return TrainConfig(model=model, twist=twist).build(SimpleNamespace(channels=3, classes=range(10)))


def _training_step(net: nn.Module) -> Callable[[], float]:
    net.to(memory_format=torch.channels_last)
    images: Tensor = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        begin = perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        return perf_counter() - begin

    return step


def keep(change: Callable[[dict], None]) -> None:
    """Change the record on disk; every training is kept as it ends."""
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    change(record)
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="local copy of CIFAR-10; by default it is downloaded")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the trainings (default 0 1 2)")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), help="default all")
    parser.add_argument("--epochs", type=int, default=2, help="of each training (default 2)")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--speed", type=int, default=0, help="rounds in which images/s are measured (default none)")
    options = parser.parse_args()
    if options.speed:
        measured = {"date": f"{date.today()}", **environment(), "networks": speeds(options.speed)}
        keep(lambda record: record.update(speed=measured))
        for name, each in measured["networks"].items():
            print(f"{name}: {each['weights']:,} weights, {each['images_per_second']:.0f} images/s")
    for seed in options.seeds:
        for name in options.networks:
            found = train(name, seed, options.epochs, options.data_dir, options.output)
            keep(lambda record, found=found: record["runs"].append(found))
            print(f"{name}, seed {seed}: {found['test_accuracy']:.2%} in {found['training_minutes']} min; in {RESULT}")


if __name__ == "__main__":
    main()
