"""One network of each family at equal size beside a plain ResNet-20, and depth that grows beside depth that does not.

10,000 CIFAR-10 images (a fixed list, whose hash is in each row), the same recipe for every network, one thread. Each
training is a process of its own and a row of ``results/pde_families.json``; rows that are there are not trained again,
so a run that was cut off goes on where it was.

Example: python experiments/pde_families.py --data_dir data --seeds 0 1 2
"""

import argparse
import gc
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import mean, median, stdev
from time import process_time

from common import HERE, RESULTS, begun, fresh, keep, put_table, read, told, training_step
from torch import nn

from dynamicblocks.network import num_weights
from dynamicblocks.tasks.classify import Classify, DataConfig
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.training import Training
from dynamicblocks.training.config import HardwareConfig, OptimizerConfig, RefineConfig, TrainConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder

RESULT = RESULTS / "pde_families.json"
DOCUMENTS = (HERE / "README.md", HERE.parent / "docs" / "pde-networks.md")
BEGIN, END = "<!-- table: python experiments/pde_families.py --table -->", "<!-- end of families -->"
BENCHMARKS = HERE.parent / "benchmarks"
BATCH = 128
# The learning rate was tried with two of the networks, see the README.
OPTIMIZER = OptimizerConfig(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", warmup=0.15)
# Fixed, so that all networks are trained in the same way.
HARDWARE = HardwareConfig(accelerator="cpu", precision="bf16-mixed", channels_last=True, compile=False)
# Tensors are mapped one by one and given back when they die: else a peak holds what the heap kept between them.
MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
PLAIN = "ResNet-20"

# All with batch norm: the tv norm of the first three as published learns slowly, and eight epochs are few.
FAMILIES = {
    PLAIN: ModelConfig(name="resnet20"),
    "parabolic": ModelConfig(name="parabolic_cnn", widths=(16, 40, 88, 88), norm="batch"),
    "Hamiltonian": ModelConfig(name="hamiltonian_cnn", widths=(16, 48, 128, 128), norm="batch"),
    "second order": ModelConfig(name="second_order_cnn", widths=(16, 40, 88, 88), norm="batch"),
    "reversible Hamiltonian": ModelConfig(name="hamiltonian_resnet", depth=50, widths=(16, 48, 128)),
    "midpoint": ModelConfig(name="midpoint_resnet", depth=26, widths=(16, 32, 88)),
    "IMEX": ModelConfig(
        name="parabolic_cnn", widths=(16, 40, 88, 88), layer="semi_implicit", integrator="imex", norm="batch"
    ),
    "LM-ResNet-20": ModelConfig(name="lm_resnet", depth=20),
}
# Depth that grows, with a cosine of its own for each level, beside its first and its last depth from the start.
GROWN = "2-2-2 -> 4-4-4 -> 8-8-8"
LEVELS = {
    "2-2-2": ModelConfig(name="continuousnet", width=8, units=2),
    "8-8-8": ModelConfig(name="continuousnet", width=8, units=8),
    GROWN: ModelConfig(name="continuousnet", width=8, units=2),
}
EPOCHS, LEVEL_EPOCHS = 8, 16
# The shares of the published multi-level trainings: 60 and 110 of 160 epochs.
REFINE = RefineConfig(epochs=(6, 11), restart=True)


def config_of(name: str, seed: int, data_dir: str | None, output: str) -> tuple[Classify, TrainConfig]:
    data = DataConfig(
        name="cifar10",
        data_dir=data_dir,
        train_images=10_000,
        validation=0.02,
        batch_size=BATCH,
        test_batch_size=500,
    )
    task = Classify(data=data, model=FAMILIES[name] if name in FAMILIES else LEVELS[name])
    config = TrainConfig(
        optimizer=OPTIMIZER,
        refine=REFINE if name == GROWN else RefineConfig(),
        hardware=HARDWARE,
        epochs=EPOCHS if name in FAMILIES else LEVEL_EPOCHS,
        keep="last",
        seed=seed,
        output=output,
        run=f"{name.replace(' -> ', '_').replace(' ', '_')}_{seed}",
    )
    return task, config


def train(name: str, seed: int, data_dir: str | None, output: str, note: str) -> dict:
    """One training; what came out, without where the data lay."""
    task, config = config_of(name, seed, data_dir, output)
    # One that was cut off goes on from its last epoch; its seconds of the processor are then those of the rest.
    resume = begun(output, config.run)
    training = Training(task, config, resume=resume)
    before = process_time()
    outcome = training.run()
    seconds = process_time() - before
    run = told(RunFolder(outcome.folder), data_dir)
    return {
        "network": name,
        "seed": seed,
        "date": f"{date.today()}",
        "weights": outcome.weights,
        "test_accuracy": outcome.test["accuracy"],
        "validation_accuracy": outcome.validation["accuracy"],
        "training_seconds": outcome.seconds,
        "images_per_second": median(epoch["images_per_second"] for epoch in run["epochs"]),
        "processor_seconds": seconds,
        "resumed": resume is not None,
        "process_peak_bytes": status("VmHWM"),
        "note": note,
        **run,
        **environment(),
    }


def status(name: str) -> int:
    """Bytes that Linux tells of this process: ``VmRSS`` in memory now, ``VmHWM`` at most.

    The peak of ``getrusage`` would do, were it not that of the process that started this one, where that is larger.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def build(name: str) -> nn.Module:
    return FAMILIES[name].create(3, 10)


def memory(name: str) -> dict[str, int]:
    """What a training step needs at most beyond what was there before: bytes of the process, and of living tensors."""
    sys.path.insert(0, str(BENCHMARKS))
    from live_bytes import peak_bytes

    net = build(name)
    training_step(net, 2)()  # loads the kernels
    step = training_step(net, BATCH)
    gc.collect()
    before = status("VmRSS")
    step()
    of_process = status("VmHWM") - before
    return {"process_bytes": of_process, "tensor_bytes": peak_bytes(step)}


def speeds(repeats: int) -> dict[str, dict]:
    """Training steps of all networks in turn: images a second, and times beside the plain network's of each round."""
    steps = {name: training_step(build(name), BATCH) for name in FAMILIES}
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(step())
    return {
        name: {
            "images_per_second": BATCH / median(taken),
            "time_over_plain": median(a / b for a, b in zip(taken, seconds[PLAIN], strict=True)),
            "seconds": taken,
            "weights": num_weights(build(name)),
            **fresh(__file__, "--memory", name, environ=MAPPED),
        }
        for name, taken in seconds.items()
    }


def table() -> str:
    """The record as Markdown."""
    found = read(RESULT, "rows")
    measured = found.get("speed", {}).get("networks", {})
    lines = [
        "| network | weights | test accuracy: mean (lowest to highest) | standard deviation | images/s | step's time "
        "beside ResNet-20 | peak memory of a step: tensors | process |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in FAMILIES:
        rows = [row for row in found["rows"] if row["network"] == name]
        speed = measured.get(name)
        cost = (
            ["not measured"] * 4
            if speed is None
            else [
                f"{speed['images_per_second']:.0f}",
                f"{speed['time_over_plain']:.2f}",
                *(f"{speed[kind] / 2**20:.0f} MiB" for kind in ("tensor_bytes", "process_bytes")),
            ]
        )
        lines.append("| " + " | ".join([name, weights(rows), *accuracy(rows), *cost]) + " |")
    lines += [
        "",
        "| ContinuousNet, width 8 | weights | test accuracy: mean (lowest to highest) | standard deviation | "
        "processor seconds | beside 8-8-8 |",
        "|---|---|---|---|---|---|",
    ]
    of_level = {name: [row for row in found["rows"] if row["network"] == name] for name in LEVELS}
    for name, rows in of_level.items():
        mine, full = ({row["seed"]: row["processor_seconds"] for row in each} for each in (rows, of_level["8-8-8"]))
        ratios = [mine[seed] / full[seed] for seed in mine if seed in full]
        cost = [f"{mean(mine.values()):.0f}" if mine else "not measured", f"{mean(ratios):.2f}" if ratios else ""]
        lines.append("| " + " | ".join([name, weights(rows), *accuracy(rows), *cost]) + " |")
    return "\n".join(lines)


def weights(rows: list[dict]) -> str:
    return f"{rows[0]['weights']:,}" if rows else "not measured"


def accuracy(rows: list[dict]) -> list[str]:
    shares = [100 * row["test_accuracy"] for row in rows]
    if not shares:
        return ["not measured", ""]
    if len(shares) == 1:
        return [f"{shares[0]:.2f} %, one seed", "-"]
    seeds = f"{min(shares):.2f} to {max(shares):.2f}, {len(shares)} seeds"
    return [f"{mean(shares):.2f} % ({seeds})", f"{stdev(shares):.2f}"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="local copy of CIFAR-10; by default it is downloaded")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the trainings (default 0 1 2)")
    names = [*FAMILIES, *LEVELS]
    parser.add_argument("--networks", nargs="+", choices=names, default=names, help="default all")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--speed", type=int, default=0, help="rounds in which steps are timed, instead of trainings")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    parser.add_argument("--memory", choices=[*FAMILIES], help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.memory:
        print(json.dumps(memory(options.memory)))
    elif options.one:
        print(json.dumps(train(options.one, *options.seeds, options.data_dir, options.output, options.note)))
    elif options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
    elif options.speed:
        measured = {"date": f"{date.today()}", "note": options.note, **environment(), "networks": speeds(options.speed)}
        keep(RESULT, "rows", lambda found: found.update(speed=measured))
        print(table())
    else:
        train_all(options)


def train_all(options: argparse.Namespace) -> None:
    """The rows that are not there yet, all networks of a seed before the next seed."""
    for seed in options.seeds:
        for name in options.networks:
            if any((row["network"], row["seed"]) == (name, seed) for row in read(RESULT, "rows")["rows"]):
                continue
            where = [] if options.data_dir is None else ["--data_dir", options.data_dir]
            asked = ["--one", name, "--seeds", str(seed), "--output", options.output, "--note", options.note, *where]
            try:
                row = fresh(__file__, *asked, environ=MAPPED)
            except subprocess.CalledProcessError as error:
                # It is tried again with the next call; the other rows do not wait for it.
                print(f"{name}, seed {seed}: ended with {error.returncode}", flush=True)
                continue
            keep(RESULT, "rows", lambda found, row=row: found["rows"].append(row))
            print(
                f"{name}, seed {seed}: {row['test_accuracy']:.2%}, {row['weights']:,} weights, "
                f"{row['processor_seconds']:.0f} s of the processor",
                flush=True,
            )


if __name__ == "__main__":
    main()
