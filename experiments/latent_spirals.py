"""Latent ODE and recurrent network on spirals seen at 30, 50 or 100 irregular times: what they say of later times.

The data as published (Chen et al. 2018): 1,000 spirals to train on, noise 0.3; others to choose by and to test with,
of which 100 later times are asked for. The error is the root mean square over both coordinates, on test spirals against
the values without noise. First each model's settings are tried, equally many, with 50 points and one seed, by the error
on validation spirals; then the best of each is trained with every number of points and seed. Each training is a process
of its own and a row of ``results/latent_spirals.json``; rows that are there are not trained again.

Example: python experiments/latent_spirals.py --seeds 0 1 2
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any, ClassVar, Literal

import torch
from common import HERE, RESULTS, begun, keep, put_table, read
from torch import Tensor, nn

from dynamicblocks.data.series import SeriesBatch, SeriesBatches, SeriesDataset, load_series
from dynamicblocks.sequences import LatentODE, NextValueRNN, SeriesModel, negative_elbo
from dynamicblocks.training import Training
from dynamicblocks.training.config import HardwareConfig, OptimizerConfig, TrainConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Figure, Place, SplitName, Task

RESULT = RESULTS / "latent_spirals.json"
# For the picture: what is said of test spirals of so many points, and draws of it.
EXAMPLES, SHOWN, DRAWS = RESULTS / "latent_spirals_examples.json", 30, 10
DOCUMENTS = (HERE / "README.md", HERE.parent / "docs" / "latent-ode.md")
BEGIN, END = "<!-- table: python experiments/latent_spirals.py --table -->", "<!-- end of spirals -->"
LATENT, RNN = "latent ODE", "RNN"
POINTS = (30, 50, 100)
PUBLISHED = {RNN: (0.3937, 0.3202, 0.1813), LATENT: (0.1642, 0.1502, 0.1346)}
# Passes over the spirals that are called an epoch: evaluations and checkpoints are then few.
PASSES = 50
EPOCHS, TRIAL_EPOCHS = 18, 6
BATCH = 250
NOISE = 0.3
HARDWARE = HardwareConfig(accelerator="cpu", precision="32-true", compile=False)
Kind = Literal["latent ODE", "RNN"]


@dataclass(frozen=True)
class Setting:
    """What is tried of a model.

    Args:
        lr: highest learning rate.
        width: of the state of the recurrent network: of the encoder, or of the whole.
        cell: of the recurrent network; of the latent model it is the encoder.
        latent, hidden, layers: of the latent equation.
    """

    lr: float
    width: int
    cell: str = "gru"
    latent: int = 3
    hidden: int = 50
    layers: int = 2


# The first of each is about the published one.
SETTINGS: dict[str, tuple[Setting, ...]] = {
    LATENT: (
        Setting(0.01, 25, cell="rnn", latent=4, hidden=20),
        Setting(0.01, 50, cell="ode_rnn"),
        Setting(0.02, 50),
        Setting(0.02, 50, latent=4),
    ),
    RNN: (
        Setting(0.01, 25, cell="rnn"),
        Setting(0.01, 50),
        Setting(0.02, 50),
        Setting(0.02, 100),
    ),
}


@dataclass(frozen=True)
class Spirals(Task[SeriesBatch]):
    """Spirals, and one of the two models."""

    name: ClassVar[str] = "spirals"
    unit: ClassVar[str] = "spirals"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("loss"), Figure("rmse", title="RMSE"))

    model: Kind = LATENT
    points: int = 50
    seed: int = 0
    setting: int = 0
    epochs: int = EPOCHS

    @cached_property
    def series(self) -> SeriesDataset:
        return load_series("spirals", seed=self.seed, points=self.points, noise=NOISE)

    @cached_property
    def scale(self) -> tuple[float, list[float], list[float]]:
        """The last time of training, mean and deviation of the coordinates: a network sees units of them."""
        train = self.series.train
        flat = train.values.flatten(0, 1)
        return train.times.max().item(), flat.mean(0).tolist(), flat.std(0).tolist()

    def load(self) -> str:
        return self.series.note

    def build(self) -> SeriesModel:
        chosen, (_, _, std) = SETTINGS[self.model][self.setting], self.scale
        if self.model == RNN:
            return NextValueRNN(2, chosen.width, chosen.cell, gap=1 / self.points, noise=None)
        model = LatentODE(
            2, chosen.latent, chosen.hidden, chosen.layers, encoder=chosen.cell, recurrent=chosen.width, noise=1.0
        )
        model.log_std.copy_(torch.tensor([math.log(NOISE / each) for each in std]))
        return model

    def batches(self, split: SplitName, place: Place) -> SeriesBatches:
        series, (span, centre, std) = getattr(self.series, split), self.scale
        if split == "train":
            series = series.select(torch.arange(len(series)).repeat(PASSES))
        return SeriesBatches(
            series, BATCH, span=span, mean=centre, std=std, seed=place.seed, epochs=self.epochs,
            device=place.device, dtype=place.dtype,
        )  # fmt: skip

    def rehearsal(self, batches: Any) -> Iterator[SeriesBatch]:
        batch = next(batches.training(0))
        yield SeriesBatch(*(each[:2] for each in batch[:-1]), batch.progress)

    @property
    def sums(self) -> tuple[str, ...]:
        return ("values", "loss", "square")

    def loss(self, net: nn.Module, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        told = net(batch.times, batch.values, batch.seen)
        # The divergence counts in full after the first tenth.
        loss = negative_elbo(told, batch.values, batch.wanted, (10 * batch.progress).clamp(max=1))
        count = batch.wanted.sum().to(loss.dtype)
        return loss, torch.stack([count, count * loss.detach(), self._squares(told.values, batch)])

    def score(self, net: nn.Module, batch: SeriesBatch) -> Tensor:
        # Weights are kept by the error itself.
        squares = self._squares(net(batch.times, batch.values, batch.seen).values, batch)
        return torch.stack([batch.wanted.sum().to(squares.dtype), squares, squares])

    def _squares(self, told: Tensor, batch: SeriesBatch) -> Tensor:
        """The sum of the squares of the wanted values' errors, in the units of the data."""
        error = (told.detach() - batch.values) * torch.tensor(self.scale[2]).to(told)
        return error.square().where(batch.wanted, 0.0).sum()

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["values"], "rmse": math.sqrt(sums["square"] / sums["values"])}


def run_name(kind: str, task: Spirals) -> str:
    return f"{kind}_{task.model}_{task.points}_{task.seed}_{task.setting}".replace(" ", "_")


def train(task: Spirals, output: str, note: str, kind: str) -> dict[str, Any]:
    """One training, and what came out."""
    name = run_name(kind, task)
    chosen = SETTINGS[task.model][task.setting]
    config = TrainConfig(
        optimizer=OptimizerConfig(name="adam", lr=chosen.lr, weight_decay=0.0, warmup=0.05, clip=1.0),
        hardware=HARDWARE, epochs=task.epochs, keep="best", seed=task.seed, output=output, run=name,
    )  # fmt: skip
    resume = begun(output, name)
    training = Training(task, config, resume=resume, table="none")
    before = process_time()
    outcome = training.run()
    folder = RunFolder(outcome.folder)
    return {
        "kind": kind,
        "model": task.model,
        "points": task.points,
        "seed": task.seed,
        "setting": task.setting,
        "chosen": vars(chosen),
        "date": f"{date.today()}",
        "weights": outcome.weights,
        "validation_rmse": outcome.validation["rmse"],
        "test_rmse": outcome.test["rmse"] if kind == "row" else None,
        "kept_epoch": outcome.kept_epoch,
        "processor_seconds": process_time() - before,
        "resumed": resume is not None,
        "data": folder.record()["data"],
        "data_sha256": sha256(task.series.test.values.numpy().tobytes()).hexdigest(),
        "epochs": folder.metrics(),
        "note": note,
        **environment(),
    }


def found_rows(kind: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = read(RESULT, "rows")["rows"]
    return [row for row in rows if row["kind"] == kind and all(row[key] == value for key, value in wanted.items())]


def best(model: str) -> int | None:
    """The setting of the lowest validation error, once all were tried."""
    rows = found_rows("trial", model=model)
    if len(rows) < len(SETTINGS[model]):
        return None
    return min(rows, key=lambda row: row["validation_rmse"])["setting"]


def one(options: argparse.Namespace, kind: str, **asked: Any) -> None:
    """A row, unless it is there: trained in a process of its own."""
    if found_rows(kind, **asked):
        return
    task = json.dumps({**asked, "epochs": EPOCHS if kind == "row" else TRIAL_EPOCHS})
    flags = ["--one", kind, "--task", task, "--output", options.output, "--note", options.note]
    done = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        # It is tried again with the next call; the other rows do not wait for it.
        print(f"{kind} {asked}: ended with {done.returncode}", flush=True)
        return
    row = json.loads(done.stdout.splitlines()[-1])
    keep(RESULT, "rows", lambda found: found["rows"].append(row))
    print(
        f"{kind} {asked}: validation {row['validation_rmse']:.4f}, test {row['test_rmse']}, "
        f"{row['processor_seconds']:.0f} s of the processor",
        flush=True,
    )


def train_all(options: argparse.Namespace) -> None:
    for model in options.models:
        for setting in range(len(SETTINGS[model])):
            one(options, "trial", model=model, points=50, seed=0, setting=setting)
    for seed in options.seeds:
        for points in POINTS:
            for model in options.models:
                setting = best(model)
                if setting is not None:
                    one(options, "row", model=model, points=points, seed=seed, setting=setting)


def examples(options: argparse.Namespace) -> None:
    """What the two models of seed 0 say of the first test spirals, one of each way around, kept for the picture."""
    found = []
    for model in PUBLISHED:
        setting = best(model)
        if setting is None or not found_rows("row", model=model, points=SHOWN, seed=0, setting=setting):
            print(f"{model}: first train its row of {SHOWN} points and seed 0")
            return
        task = Spirals(model, SHOWN, 0, setting)
        folder = RunFolder.open(Path(options.output) / run_name("row", task))
        net = task.build().eval()
        net.load_state_dict(folder.read_weights()[0])
        some = task.series.test.select(torch.arange(2))
        _, centre, std = task.scale
        batch = next(SeriesBatches(some, 2, span=task.scale[0], mean=centre, std=std, seed=0).evaluation())
        with torch.no_grad():
            torch.manual_seed(0)
            told = net(batch.times, batch.values, batch.seen).values
            drawn = net(batch.times, batch.values, batch.seen, DRAWS).values.unflatten(0, (DRAWS, 2))
        scaled = [each * torch.tensor(std) + torch.tensor(centre) for each in (told, drawn)]
        found.append(
            {
                "model": model,
                "times": rounded(some.times),
                "values": rounded(some.values),
                "seen": some.seen.tolist(),
                "told": rounded(scaled[0]),
                "drawn": rounded(scaled[1]),
            }
        )
    EXAMPLES.write_text(json.dumps({"points": SHOWN, "examples": found}) + "\n")
    print(f"written to {EXAMPLES}; draw it: python docs/figures/latent_spirals.py")


def rounded(values: Tensor) -> Any:
    return values.double().mul(1e4).round().div(1e4).tolist()


def table() -> str:
    """The record as Markdown."""
    lines = [
        "| model | " + " | ".join(f"{points} points" for points in POINTS) + " |",
        "|---|---|---|---|",
    ]
    for model in PUBLISHED:
        cells = []
        for points in POINTS:
            errors = [row["test_rmse"] for row in found_rows("row", model=model, points=points)]
            spread = (
                f"{mean(errors):.4f} ({min(errors):.4f} to {max(errors):.4f}, {len(errors)} seeds)" if errors else ""
            )
            cells.append(spread or "not measured")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
        lines.append(f"| {model}, published | " + " | ".join(f"{each:.4f}" for each in PUBLISHED[model]) + " |")
    lines += ["", "| tried | setting | validation RMSE | weights | processor seconds |", "|---|---|---|---|---|"]
    for model in PUBLISHED:
        for row in found_rows("trial", model=model):
            said = ", ".join(f"{key} {value}" for key, value in row["chosen"].items() if _of(model, key))
            chosen = ", chosen" if row["setting"] == best(model) else ""
            lines.append(
                f"| {model} | {said}{chosen} | {row['validation_rmse']:.4f} | {row['weights']:,} | "
                f"{row['processor_seconds']:.0f} |"
            )
    return "\n".join(lines)


def _of(model: str, option: str) -> bool:
    return option in (
        ("lr", "cell", "width") if model == RNN else ("lr", "cell", "width", "latent", "hidden", "layers")
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of data and training (default 0 1 2)")
    parser.add_argument("--models", nargs="+", choices=[LATENT, RNN], default=[LATENT, RNN], help="default both")
    parser.add_argument("--output", default="runs", help="where the runs are written (default runs)")
    parser.add_argument("--note", default="", help="what else ran on the machine; kept with the rows")
    parser.add_argument("--table", action="store_true", help="print the results so far, also into the documents")
    parser.add_argument("--examples", action="store_true", help="keep what trained runs say of two test spirals")
    parser.add_argument("--one", choices=["trial", "row"], help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.one:
        print(json.dumps(train(Spirals(**json.loads(options.task)), options.output, options.note, options.one)))
    elif options.examples:
        examples(options)
    elif options.table:
        print(table())
        put_table(table(), DOCUMENTS, BEGIN, END)
    else:
        train_all(options)


if __name__ == "__main__":
    main()
