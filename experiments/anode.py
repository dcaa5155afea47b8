"""Why discretise-optimise is the default: one ReLU block network under four gradient modes (after ANODE).

Gholami, Keutzer, Biros 2019 (arXiv:1902.10298) train a network whose gradients come from the equation solved back in
time, and one whose gradients are those of its steps. Here both are trained, and more: the same weights at the start,
the same 10,000 CIFAR-10 images in the same order, the same recipe, and for the backward pass of the one block

- ``adjoint``: state and adjoint equation are solved back in time from the end;
- ``adjoint`` with the interpolant: the adjoint equation alone is, and the state is read from the forward pass;
- ``checkpoint`` and ``backprop``: the derivative of the steps.

The block is z' = -K^T relu(K z + b1) + b2: in many dimensions what z' = -relu(50 z) is in one. It diffuses, so that
forward in time it is as tame as the heat equation, and back in time as hopeless. Before each epoch the gradient of the
mode is compared, on a fixed batch, with that of the steps in double precision. Each training is a process of its own
and a row of ``results/anode.json``; rows that are there are not trained again, and one that was cut off goes on.

Example: python experiments/anode.py --data_dir data --seeds 0 1 2
Example: python experiments/anode.py --table
"""

import argparse
import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import process_time
from typing import Any

import torch
from common import HERE, RESULTS, begun, keep, put_table, read, told, write
from torch import Tensor, nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.analysis import gradient_check
from dynamicblocks.connectors import Head, Opening
from dynamicblocks.errors import SolverError
from dynamicblocks.models.registry import models
from dynamicblocks.network import DynamicNet, evaluations_of, num_weights
from dynamicblocks.tasks import load_run
from dynamicblocks.tasks.classify import Classify, DataConfig
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.training import Training
from dynamicblocks.training.config import HardwareConfig, OptimizerConfig, TrainConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.task import HERE as ON_CPU
from dynamicblocks.training.task import Batches, Place, SplitName

RESULT = RESULTS / "anode.json"
DOCUMENTS = (HERE / "README.md", HERE.parent / "docs" / "gradients.md")
BEGIN, END = "<!-- table: python experiments/anode.py --table -->", "<!-- end of anode -->"
BENCHMARKS = HERE.parent / "benchmarks"
EPOCHS, BATCH, WIDTH = 8, 128, 32
# The span of the block's time, in which differences grow by e^(rate x span) on the way back, and steps of the grid.
SPAN, STEPS = 10.0, 10
# Clipped for all modes alike: the gradients that the reverse-time adjoint gives are large without bound.
OPTIMIZER = OptimizerConfig(lr=0.05, momentum=0.9, weight_decay=5e-4, clip=1.0, schedule="cosine", warmup=0.15)
HARDWARE = HardwareConfig(accelerator="cpu", precision="32-true", channels_last=False, compile=False)
INTEGRATORS = {"adaptive": "bosh3(rtol=0.01, atol=0.01)", "Euler": "euler"}
# Without the seminorm, the integrals for the weights would make the steps back many times as many.
SEMINORM = "options={'norm': 'seminorm'}"
MODES = {
    "adaptive": {
        "backprop": "backprop",
        "checkpoint": "checkpoint",
        "adjoint, interpolant": f"adjoint(interpolant=True, {SEMINORM})",
        "adjoint": f"adjoint({SEMINORM})",
    },
    # On a grid nothing is kept that could be interpolated.
    "Euler": {"backprop": "backprop", "checkpoint": "checkpoint", "adjoint": "adjoint"},
}
ROWS = [(solver, mode) for solver, modes in MODES.items() for mode in modes]
# Accuracies of Gholami et al. 2019 on all of CIFAR-10: the neural ODE, ANODE, and the ResNet-10 that both come from.
PUBLISHED = {"adjoint": 67.94, "checkpoint": 88.60, "ResNet-10": 88.10}


@models.register("relu_block")
def relu_block(
    in_channels: int = 3, num_classes: int = 10, *, integrator: str = "euler", gradient: str = "backprop"
) -> DynamicNet:
    """Two strided convolutions, one block of a symmetric ReLU layer without normalisation, a linear head."""
    grid = db.uniform(0, SPAN, steps=STEPS)
    block = db.DynamicBlock(f"symmetric({WIDTH}, norm='none')", "constant(1)", grid, integrator, gradient)
    return DynamicNet(
        Opening(in_channels, WIDTH, stride=2), [Opening(WIDTH, WIDTH, stride=2), block], Head(WIDTH, num_classes)
    )


@dataclass(frozen=True)
class Watched(Classify):
    """The task, with somebody who is called before each epoch."""

    name = "classify"

    def watched_by(self, before: Callable[[int], None]) -> None:
        """Let it be called with the number of each epoch that begins."""
        vars(self)["before"] = before

    def batches(self, split: SplitName, place: Place) -> Batches[Any]:
        found = super().batches(split, place)
        return Telling(found, lambda epoch: vars(self).get("before", int)(epoch)) if split == "train" else found


@dataclass(frozen=True)
class Telling:
    """Batches that tell when an epoch begins."""

    batches: Batches[Any]
    before: Callable[[int], object]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def training(self, epoch: int, first_step: int = 0, progress: float = 0.0) -> Iterator[Any]:
        if first_step == 0:
            self.before(epoch)
        yield from self.batches.training(epoch, first_step, progress)


def config_of(solver: str, mode: str, seed: int, data_dir: str | None, output: str) -> tuple[Watched, TrainConfig]:
    data = DataConfig(
        name="cifar10", data_dir=data_dir, train_images=10_000, validation=0.02, batch_size=BATCH, test_batch_size=500
    )
    model = ModelConfig("relu_block", integrator=INTEGRATORS[solver], gradient=MODES[solver][mode])
    config = TrainConfig(
        optimizer=OPTIMIZER,
        hardware=HARDWARE,
        epochs=EPOCHS,
        keep="last",
        seed=seed,
        output=output,
        run=run_of(solver, mode, seed),
    )
    return Watched(data=data, model=model), config


def run_of(solver: str, mode: str, seed: int) -> str:
    return f"{solver}_{mode.replace(', ', '_')}_{seed}"


def gradient(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The gradient of a training step for all weights, as one vector in double precision; the network is a copy."""
    images, labels = batch
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net.train()(images), labels).backward()
    return torch.cat([weight.grad.flatten() for weight in net.parameters()]).double()


def gradient_error(net: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """How far the gradient of a network's own mode is from that of the steps in double precision, relative."""
    images, labels = batch
    exact = gradient(db.with_gradient(copy.deepcopy(net).double(), "backprop"), (images.double(), labels))
    own = copy.deepcopy(net)
    try:
        found = gradient(own, batch)
    except SolverError as error:
        return {"error": None, "cosine": None, "said": f"{error}"}
    cosine = F.cosine_similarity(found, exact, dim=0).item()
    error = ((found - exact).norm() / exact.norm()).item()
    finite = math.isfinite(error)
    return {
        "error": error if finite else None,
        "cosine": cosine if finite else None,
        "said": "" if finite else "not finite",
        "evaluations": evaluations_of(own),
        "gradient": exact.norm().item(),
    }


class Gradients:
    """The errors by epoch, on disk from the first on, for a training may be cut off."""

    def __init__(self, path: Path, training: Training, batch: tuple[Tensor, Tensor], others: Mapping[str, str]) -> None:
        self.path, self.training, self.batch, self.others = path, training, batch, others

    def __call__(self, epoch: int) -> None:
        found = self.by_epoch()
        net = self.training.net
        others = {
            mode: gradient_error(db.with_gradient(net, written), self.batch) for mode, written in self.others.items()
        }
        found[epoch] = {"epoch": epoch, **gradient_error(net, self.batch), "others": others}
        write(self.path, {"gradients": [found[each] for each in sorted(found)]})

    def by_epoch(self) -> dict[int, dict[str, Any]]:
        return {each["epoch"]: each for each in read(self.path, "gradients")["gradients"]}


def train(solver: str, mode: str, seed: int, data_dir: str | None, output: str, note: str) -> dict[str, Any]:
    """One training; what came out, or how it ended, without where the data lay."""
    task, config = config_of(solver, mode, seed, data_dir, output)
    resume = begun(output, config.run)
    training = Training(task, config, resume=resume)
    batch = next(task.batches("validation", ON_CPU).evaluation())
    # With the weights that the right gradient leads to, the other modes are seen at their task, too.
    others = {name: written for name, written in MODES[solver].items() if name != mode} if mode == "backprop" else {}
    errors = Gradients(Path(output) / f"{config.run}.gradients.json", training, batch, others)
    task.watched_by(errors)
    before, failed, accuracy = process_time(), "", None
    try:
        accuracy = training.run().test["accuracy"]
    except SolverError as error:
        # A loss that is no number, or an equation that has no solution back in time: this is a result.
        failed = " ".join(str(error).split()).replace(f"{output}/", "")
    seconds = process_time() - before
    if not failed:
        errors(EPOCHS)
    return {
        "solver": solver,
        "mode": mode,
        "seed": seed,
        "date": f"{date.today()}",
        "weights": num_weights(training.net),
        "test_accuracy": accuracy,
        "failed": failed,
        "gradients": list(errors.by_epoch().values()),
        "steps_beside_finite_differences": None if failed else beside_differences(training.net, batch),
        "processor_seconds": seconds,
        "resumed": resume is not None,
        "note": note,
        **told(training.folder, data_dir),
        **environment(),
    }


def beside_differences(net: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """How far the gradient of the steps is from finite differences: whether what the modes are held against is right.

    In evaluation mode: the network is a function of its weights then.
    """
    images, labels = (each[:32] for each in batch)
    found = gradient_check(
        copy.deepcopy(net).eval(), images, loss=lambda logits: F.cross_entropy(logits, labels), modes=["backprop"]
    )
    return found["backprop"].worst


def memory(output: str, data_dir: str | None, seed: int) -> list[dict[str, Any]]:
    """Peaks of a training step under each mode with the weights that backprop trained, the same for all modes."""
    sys.path.insert(0, str(BENCHMARKS))
    from live_bytes import peak_bytes

    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    found = []
    for solver, mode in ROWS:
        run = load_run(Path(output) / run_of(solver, "backprop", seed), data_dir=data_dir)
        net = db.with_gradient(run.net, MODES[solver][mode]).train()

        def step(net: nn.Module = net) -> None:
            net.zero_grad(set_to_none=True)
            F.cross_entropy(net(images), labels).backward()

        record = {"solver": solver, "mode": mode, "seed": seed}
        try:
            record["tensor_bytes"] = peak_bytes(step)
        except SolverError as error:
            record |= {"tensor_bytes": None, "said": f"{error}"}
        found.append({**record, "evaluations": evaluations_of(net)})
    return found


def table() -> str:
    """The record as Markdown."""
    found = read(RESULT, "rows")
    lines = [
        "| steps of the block | gradient | test accuracy | published, ResNet-10 blocks, all of CIFAR-10 | error of the "
        "gradient before training, after 1 epoch, after half, at the end | peak of a training step |",
        "|---|---|---|---|---|---|",
    ]
    peaks = {(each["solver"], each["mode"]): each for each in found.get("memory", [])}
    for solver, mode in ROWS:
        rows = [row for row in found["rows"] if (row["solver"], row["mode"]) == (solver, mode)]
        peak = peaks.get((solver, mode), {}).get("tensor_bytes")
        published = PUBLISHED.get(mode)
        cells = [
            f"`{INTEGRATORS[solver]}`" if solver == "adaptive" else f"Euler, {STEPS} steps",
            mode,
            accuracy(rows),
            "" if published is None else f"{published:.2f} %",
            errors(rows),
            "not measured" if peak is None else f"{peak / 2**20:.0f} MiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy(rows: list[dict[str, Any]]) -> str:
    return "; ".join(map(outcome, rows)) or "not measured"


def outcome(row: dict[str, Any]) -> str:
    if not row["failed"]:
        return f"{100 * row['test_accuracy']:.2f} %"
    return f"ended in epoch {len(row['epochs']) + 1}"


def errors(rows: list[dict[str, Any]]) -> str:
    """Of the first seed."""
    if not rows:
        return "not measured"
    found = rows[0]["gradients"]
    chosen = [each for each in found if each["epoch"] in (0, 1, EPOCHS // 2, found[-1]["epoch"])]
    return ", ".join("no number" if each["error"] is None else f"{each['error']:.0e}" for each in chosen)


def fresh(*arguments: str) -> Any:
    """What this script says with these arguments, in a process of its own."""
    said = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="local copy of CIFAR-10; by default it is downloaded")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings (default 0)")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--memory", action="store_true", help="measure a training step of each mode, after the rows")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    parser.add_argument("--one", type=int, choices=range(len(ROWS)), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.one is not None:
        row = train(*ROWS[options.one], options.seeds[0], options.data_dir, options.output, options.note)
        print(json.dumps(row))
    elif options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
    elif options.memory:
        measured = memory(options.output, options.data_dir, options.seeds[0])
        keep(RESULT, "rows", lambda found: found.update(memory=measured))
        print(table())
    else:
        train_all(options)


def train_all(options: argparse.Namespace) -> None:
    """The rows that are not there yet, all modes of a seed before the next seed."""
    for seed in options.seeds:
        for number, (solver, mode) in enumerate(ROWS):
            known = read(RESULT, "rows")["rows"]
            if any((row["solver"], row["mode"], row["seed"]) == (solver, mode, seed) for row in known):
                continue
            where = [] if options.data_dir is None else ["--data_dir", options.data_dir]
            asked = ["--one", str(number), "--seeds", str(seed), "--output", options.output, "--note", options.note]
            row = fresh(*asked, *where)
            keep(RESULT, "rows", lambda found, row=row: found["rows"].append(row))
            print(f"{solver}, {mode}, seed {seed}: {outcome(row)}, {row['processor_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
