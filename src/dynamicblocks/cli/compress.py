"""``dynamicblocks compress``."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from dynamicblocks.analysis import Compression, changed, compress, halved
from dynamicblocks.analysis.compression import INTEGRATORS
from dynamicblocks.cli.console import make_console
from dynamicblocks.cli.loading import ReadyRun, add_device_arguments, load
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import as_integrator
from dynamicblocks.network import evaluations_of, num_weights
from dynamicblocks.structure import structure
from dynamicblocks.training import evaluate
from dynamicblocks.training.environment import environment
from dynamicblocks.training.evaluation import Score, answered, score_of
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import recorded

USAGE = "dynamicblocks compress RUN [--tolerance 0.2%%] [--beside RUN] [--to FOLDER] ..."
DESCRIPTION = """Find, for each block, the cheapest integrator, time grid and number of controls that keep the accuracy.

The tolerance holds on the validation images and on training images changed at random. On the latter, moreover, few
answers may differ from those of the network as it was: where images are few, accuracy alone is a matter of chance.
Statistics are measured anew on training images; test images are read at the end, before and after. The result is a new
run folder, which the other commands read like any other.

Example: dynamicblocks compress runs/MINE --tolerance 0.2% --beside runs/PLAIN"""

REPEATS = 3
# What the tolerance holds on, beside the validation images: so many training images, changed as in training.
CHANGED_IMAGES = 2000
SETS = ("validation images", "changed training images", "changed training images answered as before")


def add_arguments(parser: ArgumentParser) -> None:
    """The run, how much accuracy may be lost, and where to write."""
    parser.add_argument("run", type=str, help="folder of the run")
    parser.add_argument("--tolerance", type=str, default="0.2%", help="largest loss of validation accuracy, in points")
    parser.add_argument(
        "--disagreement", type=str, default="0.5%", help="largest share of changed training images answered otherwise"
    )
    parser.add_argument(
        "--beside", type=str | None, default=None, help="folder of a second run, such as a plain ResNet"
    )
    parser.add_argument("--to", type=str | None, default=None, help="folder of the new run; by default RUN-compressed")
    parser.add_argument(
        "--integrators",
        type=list[str] | None,
        default=None,
        help=f"see `dynamicblocks integrators`; by default {', '.join(INTEGRATORS)} and the one of the training",
    )
    parser.add_argument("--batches", type=int, default=16, help="training batches on which statistics are measured")
    add_device_arguments(parser)


def run(options: Namespace) -> None:
    """Search, write the new run, and report both networks on the test images."""
    console = make_console()
    tolerance = share(options.tolerance)
    for name in options.integrators or ():
        if not as_integrator(name).fixed_cost:
            raise ConfigurationError(
                f"compression compares costs that are known beforehand, but the evaluations of {name!r} depend on the "
                "state; choose among explicit integrators on a grid, such as euler, midpoint and rk4"
            )
    target = Path(options.to or f"{options.run.rstrip('/')}-compressed")
    RunFolder.check_free(target)
    one = load(options, options.run, "validation", console)
    found = _search(one, options, (tolerance, tolerance, share(options.disagreement)), console)
    rows: list[dict[str, Any]] = [_tested(one, "before", one.net), _tested(one, "compressed", found.net)]
    if options.beside is not None:
        plain = load(options, options.beside, "validation", console)
        same = changed(plain.net, halved(plain.net), _training_images(plain, options.batches))
        rows += [_tested(plain, "before", plain.net), _tested(plain, "half the steps", same)]
    console.print(_table(rows, one.test.samples))
    _print_blocks(found, console)
    result = {
        "compressed_from": str(one.folder.path),
        "tolerance": tolerance,
        "scores": {
            name: {"before": before.as_record(one.task.unit), "after": after.as_record(one.task.unit)}
            for name, before, after in zip(SETS, found.before, found.after, strict=True)
        },
        "networks_tried": found.tried,
        "blocks": {name: asdict(each) for name, each in found.chosen.items()},
        "test": rows,
        "data": one.task.load(),
    }
    folder = RunFolder.create(
        target, recorded(one.task, one.config), {**environment(), "compressed_from": str(one.folder.path)}
    )
    folder.write_weights(found.net.state_dict(), recorded(one.task, one.config), structure(found.net))
    folder.write_result(result)
    quoted = shlex.quote(str(target))
    console.print(f"Run written to {target}\nNext:\n  dynamicblocks evaluate {quoted}", highlight=False, soft_wrap=True)


def share(text: str) -> float:
    """A tolerance as a share: ``0.2%`` is 0.002.

    >>> share("0.2%")
    0.002
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if match is None:
        raise ConfigurationError(f"a tolerance must be a share of the images such as 0.2% or 0.002, got {text!r}")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value < 1:
        raise ConfigurationError(f"a tolerance must be at least 0 and below 100%, got {text!r}")
    return value


def _training_images(one: ReadyRun, wanted: int) -> list[Any]:
    """Batches as in training, on which running statistics are measured."""
    return [one.task.inputs(batch) for batch in islice(one.training.training(epoch=0), wanted)]


def _search(one: ReadyRun, options: Namespace, tolerance: Sequence[float], console: Console) -> Compression:
    # Small sets are seen several times, each time changed otherwise.
    epochs = chain.from_iterable(one.training.training(epoch) for epoch in count())
    batches = list(islice(epochs, max(1, CHANGED_IMAGES // one.training.batch_size)))
    answers = [answered(one.task, one.net, batch, one.fabric) for batch in batches]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("trying discretisations", total=None)
        return compress(
            one.net,
            [
                lambda net: evaluate(one.task, net, one.batches, one.fabric),
                lambda net: score_of(one.task, net, batches, one.fabric),
                lambda net: score_of(one.task, net, answers, one.fabric),
            ],
            _training_images(one, options.batches),
            tolerance=tolerance,
            integrators=options.integrators,
            progress=lambda tried: progress.update(task, description=f"trying discretisations: {tried}"),
        )


def _tested(one: ReadyRun, state: str, net: nn.Module) -> dict[str, Any]:
    """Cost and accuracy on the test images; the throughput is the best of a few passes."""
    scores: list[Score] = [evaluate(one.task, net, one.test, one.fabric) for _ in range(REPEATS)]
    return {
        "network": one.model,
        "state": state,
        "weights": num_weights(net),
        "evaluations": evaluations_of(net),
        "accuracy": scores[0]["accuracy"],
        "loss": scores[0].loss,
        "images_per_second": max(score.samples_per_second for score in scores),
    }


def _table(rows: list[dict[str, Any]], images: int) -> Table:
    table = Table(title=f"On {images} test images", title_justify="left")
    for column in ("network", ""):
        table.add_column(column)
    for column in ("weights", "evaluations", "images/s", "times as fast", "accuracy", "points"):
        table.add_column(column, justify="right")
    for index, row in enumerate(rows):
        first = rows[index - index % 2]
        table.add_row(
            row["network"],
            row["state"],
            f"{row['weights']:,}",
            str(row["evaluations"]),
            f"{row['images_per_second']:,.0f}",
            "" if row is first else f"{row['images_per_second'] / first['images_per_second']:.2f}",
            f"{row['accuracy']:.2%}",
            "" if row is first else f"{100 * (row['accuracy'] - first['accuracy']):+.2f}",
        )
    return table


def _print_blocks(found: Compression, console: Console) -> None:
    for name, each in found.chosen.items():
        controls = "projected weights" if each.projected else "the weights as they are"
        times = ", ".join(f"{time:g}" for time in each.times)
        console.print(
            f"{name}: {each.integrator}, {each.steps} steps at {times} ({each.grid}), {controls}", highlight=False
        )
    if not found.chosen:
        console.print("No cheaper discretisation stays within the tolerance; the network is as it was.")
    console.print(f"Chosen among {found.tried} networks by their accuracy on", highlight=False)
    for name, before, after in zip(SETS, found.before, found.after, strict=True):
        console.print(
            f"  {before.samples} {name}: {before['accuracy']:.2%} -> {after['accuracy']:.2%}", highlight=False
        )
