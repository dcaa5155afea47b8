"""``dynamicblocks train``."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from dynamicblocks.cli.published import rewritten
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.network import evaluations_of, num_weights
from dynamicblocks.tasks import load_config, tasks
from dynamicblocks.tasks.files import DEFAULT, read_options
from dynamicblocks.tasks.own import asked_task, changed_since, task_of_run
from dynamicblocks.tasks.parsing import add_task_arguments, task_and_config
from dynamicblocks.tasks.plain_options import check_written, options_of
from dynamicblocks.tasks.registry import named_task
from dynamicblocks.training import Outcome, RunFolder, Task, TrainConfig, Training
from dynamicblocks.training.manifestations import caveat, own_integrator, solves_its_equation

# A list of every flag above each error would hide the error.
USAGE = "dynamicblocks train [--task TASK] [--config FILE] [--FLAG VALUE ...] [--resume RUN]"
DESCRIPTION = """Train a network of dynamic blocks, then evaluate the same weights under other integrators.

Without arguments: scikit-learn's digits and a small network, under two minutes on a laptop.
Example: dynamicblocks train --model.name resnet20 --model.unit post --epochs 20
Example: dynamicblocks train --config runs/OLD/config.yaml --seed 1
Example: dynamicblocks train --refine.epochs 10 20 --refine.restart true --optimizer.smoothness 2e-4 --optimizer.box 1
Example: dynamicblocks train --model ContinuousNet --scheme rk4_classic --dataset CIFAR10 --initial-time-d 1 --refine 25

Several values are written one after the other or as a list: --refine.epochs 10 20, --refine.epochs [10,20].
The last example is ContinuousNet's. Its flags are accepted with - or _: --model, --arch (a published name takes
the original's defaults), --scheme, --dataset, --data-dir, --batch-size, --test-batch-size, --lr, --lr-decay,
--lr-decay-epoch, --weight-decay, --[no-]batch-norm, --device, --alpha, --widen-factor, --initial-time-d,
--n-time-steps-per, --time-epsilon, --use-skipinit, --refine, --refine-variance, --name, --depth-res, --depth-wide."""


@dataclass(frozen=True)
class TrainCommand:
    """The command for one task, whose options are its flags.

    Args:
        task: whose flags it has.
        asked: whether somebody asked for it.
    """

    task: type[Task[Any]]
    asked: bool
    USAGE = USAGE
    DESCRIPTION = DESCRIPTION

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Every field of the configuration is a flag."""
        parser.add_argument(
            "--task", type=str, default=DEFAULT, help=f"one of {', '.join(tasks)}, or FILE.py:Name, a class of your own"
        )
        parser.add_argument("--config", action="config", help="YAML file with some or all of the options below")
        add_task_arguments(parser, self.task)
        parser.add_argument(
            "--resume", type=str, default=None, help="folder of a run to continue, as it was configured"
        )

    def run(self, options: Namespace) -> None:
        """Train and show what came out."""
        task, config = task_and_config(self.task, options)
        training = Training(task, config) if options.resume is None else self._resumed(options, task, config)
        console = training.console
        console.print(training.note, soft_wrap=True)
        console.print(
            f"{training.task.title}: {num_weights(training.net):,} weights, {evaluations_of(training.net)} layer "
            f"evaluations a pass, on {training.fabric.device}; writing to {training.folder.path}",
            soft_wrap=True,
            highlight=False,
        )
        again = f" --task {shlex.quote(options.task)}" if training.task.source_hash else ""
        show(training.run(), training, console, again)

    def _resumed(self, options: Namespace, task: Task[Any], config: TrainConfig) -> Training:
        if (task, config) != (self.task(), TrainConfig()):
            raise ConfigurationError(
                "--resume continues a run as it was configured and takes no other options; to change some, start "
                f"a new run with --config {Path(options.resume) / 'config.yaml'}"
            )
        folder = RunFolder.open(Path(options.resume))
        own = self.task if self.asked else None
        training = Training(*load_config(folder.configuration(), own), resume=folder.path)
        reference, _ = read_options(folder.configuration())
        note = changed_since(reference, own)
        if note:
            training.console.print(f"Note: {note}", highlight=False, soft_wrap=True)
            if training.fabric.global_rank == 0:
                event = {"event": "task", "from": reference, "to": training.task.reference}
                folder.append("events.jsonl", {**event, "epoch": training.state.epoch, "step": training.state.step})
        return training


def command_for(arguments: Sequence[str]) -> tuple[TrainCommand, list[str]]:
    """The command for the task that is asked for, and its arguments.

    The task is that of ``--task``, or else that of a configuration file. Files are read here and handed on as text:
    they may be of an earlier version, or have come with somebody else's run.
    """
    asked, rest = taken(arguments, "--task")
    paths, rest = taken(rest, "--config")
    own = asked_task(asked[-1]) if asked else None
    kind, read = own or named_task(DEFAULT), []
    for path in map(Path, paths):
        try:
            reference, written = read_options(path)
            kind = kind if reference is None else task_of_run(reference, own, path)
            check_written(written, {**options_of(kind), **options_of(TrainConfig)})
        except StorageError as error:  # here it is what the caller wrote
            raise ConfigurationError(str(error)) from error
        read.append(f"--config={json.dumps(written)}")
    known = [f"--task={text}" for text in asked[-1:]] + rewritten([*read, *rest], published=kind.name == DEFAULT)
    return TrainCommand(kind, bool(asked)), known


def taken(arguments: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The values of a flag among arguments, and the other arguments.

    >>> taken(["--seed", "1", "--task", "one", "--task=two"], "--task")
    (['one', 'two'], ['--seed', '1'])
    """
    values, rest, others = [], list(arguments), []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name != flag:
            others.append(f"{name}{equals}{value}")
        elif equals:
            values.append(value)
        elif rest:
            values.append(rest.pop(0))
        else:
            raise ConfigurationError(f"{flag} expects a value; see `dynamicblocks train --help`")
    return values, others


def show(outcome: Outcome, training: Training, console: Console, again: str = "") -> None:
    """The result, the same weights in other manifestations, and what to do next, with the flags of ``again``."""
    task, headline = training.task, training.task.headline
    test, chosen = (headline.shown(score[headline.name]) for score in (outcome.test, outcome.validation))
    console.print(
        f"\nTest {headline.heading} [bold]{test}[/] ({outcome.test.samples} {task.unit}, read once). Weights of epoch "
        f"{outcome.kept_epoch + 1}, the {training.config.keep} ({chosen} on the validation {task.unit}). "
        f"{outcome.seconds:.1f} s of training.",
        highlight=False,
    )
    if outcome.manifestations:
        console.print(manifestation_table(outcome, task))
    other = " --integrator rk4 --steps 16" if solves_its_equation(outcome.net, "rk4") else ""
    run = shlex.quote(str(outcome.folder))
    for picture in outcome.pictures:
        console.print(f"Drawn: {picture}", highlight=False, soft_wrap=True)
    console.print(f"Run written to {outcome.folder}\nNext:", highlight=False, soft_wrap=True)
    for command in (
        f"dynamicblocks converge {run}{again}",
        f"dynamicblocks compress {run}{again}",
        f"dynamicblocks evaluate {run}{again}{other}",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def manifestation_table(outcome: Outcome, task: Task[Any]) -> Table:
    """The task's main figure on the test samples, by integrator and number of steps."""
    headline = task.headline
    factors = sorted({other.steps_factor for other in outcome.manifestations})
    trained = own_integrator(outcome.net)
    names = [other.integrator for other in outcome.manifestations]
    table = Table(
        title=f"Test {headline.heading} of the same weights, by integrator and steps",
        title_justify="left",
        caption=caveat(outcome.net, names) or None,
        caption_justify="left",
    )
    table.add_column("integrator")
    for factor in factors:
        table.add_column("steps as trained" if factor == 1 else f"{factor} x steps", justify="right")
    found = {(other.integrator, other.steps_factor): other.score[headline.name] for other in outcome.manifestations}
    for integrator in dict.fromkeys(names):
        name = f"{integrator} (trained)" if integrator == trained else integrator
        table.add_row(name, *(headline.shown(found[integrator, factor]) for factor in factors))
    return table
