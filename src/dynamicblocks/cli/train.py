"""``dynamicblocks train``."""

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from dynamicblocks.cli.arguments import Formatter
from dynamicblocks.cli.console import QUIET, make_console, say
from dynamicblocks.cli.published import split
from dynamicblocks.cli.seeds import SeedFolder, seeds_of, train_seeds
from dynamicblocks.cli.table import table as plain_table
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.network import evaluations_of, named_blocks, num_weights
from dynamicblocks.options import NONE
from dynamicblocks.tasks import load_config, tasks
from dynamicblocks.tasks.option_table import OptionTable
from dynamicblocks.tasks.own import asked_task, changed_since, task_of_run
from dynamicblocks.tasks.parsing import (
    USUAL_TASK,
    Written,
    table_of,
    task_and_config,
    written_as_flags,
    written_in_file,
)
from dynamicblocks.tasks.registry import named_task
from dynamicblocks.training import Outcome, RunFolder, Task, TrainConfig, Training
from dynamicblocks.training.loggers import check_loggers
from dynamicblocks.training.manifestations import caveat, own_integrator, solves_its_equation
from dynamicblocks.training.outcome import check_table
from dynamicblocks.training.rehearsal import check_plan
from dynamicblocks.training.runs import expected, recorded
from dynamicblocks.visible import visible

# A list of every flag above each error would hide the error.
USAGE = "dynamicblocks train [--task TASK] [--config FILE] [--FLAG VALUE ...] [--resume RUN]"
DESCRIPTION = "Train a network, write down how it went, and keep it in a folder that the other commands read."
SEVERAL = "Several values are written one after the other or as a list: --refine.epochs 10 20, --refine.epochs [10,20]."
EXAMPLES = {
    "classify": """At the end the same weights are evaluated under other integrators.

Without arguments: scikit-learn's digits and a small network.
Example: dynamicblocks train --model.name resnet20 --model.unit post --epochs 20
Example: dynamicblocks train --config runs/OLD/config.yaml --seed 1
Example: dynamicblocks train --refine.epochs 10 20 --refine.restart true --optimizer.smoothness 2e-4 --optimizer.box 1
Example: dynamicblocks train --run mine --seeds 0 1 2
Example: dynamicblocks train --task series --help
Example: dynamicblocks train --model ContinuousNet --scheme rk4_classic --dataset CIFAR10 --initial-time-d 1 --refine 25

The last example is ContinuousNet's. Its flags are accepted with - or _: --model, --arch (a published name takes \
the original's defaults), --scheme, --dataset, --data-dir, --batch-size, --test-batch-size, --lr, --lr-decay, \
--lr-decay-epoch, --weight-decay, --[no-]batch-norm, --device, --alpha, --widen-factor, --initial-time-d, \
--n-time-steps-per, --time-epsilon, --use-skipinit, --refine, --refine-variance, --name, --depth-res, --depth-wide.
""",
    "segment": """
Example: dynamicblocks train --task segment
Example: dynamicblocks train --task segment --data.name folder:PATH --model.name dynamicnet --epochs 20
""",
    "regress": """
Example: dynamicblocks train --task regress
Example: dynamicblocks train --task regress --data.name fields:heat.npz
""",
    "dynamics": """
Example: dynamicblocks train --task dynamics
Example: dynamicblocks train --task dynamics --model.equation lotka_volterra --run constants
Example: dynamicblocks train --task dynamics --data.name csv:hares.csv --data.values hares lynxes --solver.rtol 1e-5
""",
    "series": """
Example: dynamicblocks train --task series
Example: dynamicblocks train --task series --data.points 30 --model.encoder rnn --seeds 0 1 2 --run spirals
Example: dynamicblocks train --task series --data.name csv:visits.csv --data.label outcome --model.labels true
""",
    "events": """
Example: dynamicblocks train --task events
Example: dynamicblocks train --task events --data.name state_driven
Example: dynamicblocks train --task events --data.name csv:visits.csv --data.t0 0 --data.t1 10 --solver.rtol 1e-5
""",
    "density": """
Example: dynamicblocks train --task density
Example: dynamicblocks train --task density --data.name eight_gaussians --objective ot-flow-matching
Example: dynamicblocks train --task density --data.name csv:mine.csv --data.context dose --penalties.kinetic 0.01
""",
}


def description_of(task: str) -> str:
    """Of the command, with examples for the task of that name."""
    return f"{DESCRIPTION}\n{EXAMPLES.get(task, '')}\n{SEVERAL}"


# Flags that are no options of a training; tasks are registered later than this.
OWN_FLAGS = (
    ("task", "TASK", "one of {tasks}, or FILE.py:Name, a class of your own"),
    ("config", "FILE", "YAML file with some or all of the options below; flags have the last word"),
    ("resume", "RUN", "folder of a run, or of several seeds, to continue, as it was configured"),
    ("seeds", "SEED ...", "train with each of these seeds, in NAME/seed-0, NAME/seed-1, ...; NAME is that of --run"),
    (
        "table",
        "full|few|none",
        "how much to show at the end of the same weights under other integrators: all, as much as takes at most a "
        "third of the evaluations of the training (default), nothing",
    ),
    (
        "logger",
        "NAME",
        "tensorboard, csv or wandb, one or several: figures in the run's folder, beside its own files; a run that is "
        "resumed goes on with them",
    ),
)


@dataclass(frozen=True)
class TrainCommand:
    """The command for one task and one model, whose options are its flags.

    Args:
        table: every option there is.
        sources: what was written of them, of which the later has the last word.
        asked: whether somebody asked for the task.
    """

    table: OptionTable
    sources: tuple[Written, ...]
    asked: bool
    USAGE = USAGE
    DESCRIPTION = description_of("classify")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Every option is a flag; they are read by :func:`command_for`, the parser shows them."""
        parser.add_argument("--print_config", action="store_true", help="print the configuration and do nothing else")
        parser.add_argument("--quiet", action="store_true", help=QUIET.format(last="the folder of the run"))
        for name, metavar, text in OWN_FLAGS:
            parser.add_argument(f"--{name}", metavar=metavar, help=text.format(tasks=", ".join(tasks)))
        for part in self.table.parts:
            group = parser.add_argument_group(f"options of {part.title}", _escaped(part.about))
            for name, option in part.options.items():
                default = f", default: {option.shown_default}" if option.default is not NONE else ", needed"
                text = f"{option.help} (type: {option.kind.written}{default})"
                metavar = name.upper()
                group.add_argument(f"--{part.path_of(name)}", metavar=metavar, help=_escaped(text.strip()))

    def help(self) -> str:
        """The text of --help."""
        parser = ArgumentParser(
            prog="dynamicblocks train",
            usage=USAGE,
            description=_escaped(description_of(self.table.task.name)),
            formatter_class=Formatter,
        )
        self.add_arguments(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return parser.format_help()

    def run(self, options: Namespace) -> None:
        """Train and show what came out."""
        task, config = task_and_config(self.table, self.sources)
        if options.print_config:
            print(yaml.safe_dump(recorded(task, config), sort_keys=False), end="")
            return
        shown = {"console": make_console(options), "table": options.table, "loggers": options.logger}
        again = f" --task {shlex.quote(options.task)}" if options.task and self.table.task.source_hash else ""
        begun = None if options.resume is None else Path(options.resume)
        several = options.seeds is not None or (begun is not None and SeedFolder.is_one(begun))
        if begun is not None:
            self._check_alone(begun)
            finished = "" if several else self._finished(begun)
            if finished:
                say(make_console(), finished)
                return
        if not several:
            training = self._train(task, config, begun, shown, again)
            if options.quiet and training.fabric.global_rank == 0:
                print(visible(str(training.folder.path)))
        else:
            if begun is not None:
                folder = SeedFolder(begun)
                task, config = folder.configured(self.table.task if self.asked else None)
            else:
                check_plan(task, replace(config, run=None))
                folder = SeedFolder.begun(task, config, options.seeds)

            def train(task: Task[Any], config: TrainConfig, begun: Path | None) -> None:
                self._train(task, config, begun, shown, again)

            train_seeds(folder, task, config, train, shown["console"], again)
            if options.quiet:
                print(visible(str(folder.path)))

    def _train(
        self, task: Task[Any], config: TrainConfig, begun: Path | None, shown: dict[str, Any], again: str
    ) -> Training:
        """Train to the end, anew or from where a run stands, and show what came out."""
        training = Training(task, config, **shown) if begun is None else self._resumed(begun, shown)
        console = training.console
        say(console, training.note)
        evaluations = evaluations_of(training.net)
        # Without blocks there are none: those of a solve are told after each epoch.
        cost = f", {evaluations} layer evaluations a pass" if evaluations else ""
        say(
            console,
            f"{training.task.title}: {num_weights(training.net):,} weights{cost}, on {training.fabric.device}; "
            f"writing to {training.folder.path}",
        )
        show(training.run(), training, console, again)
        return training

    def _check_alone(self, run: Path) -> None:
        """Raise for options beside the run that is to go on."""
        if any(source.options for source in self.sources):
            raise ConfigurationError(
                "--resume continues a run as it was configured and takes no other options; to change some, start a new "
                f"run with --config {run / 'config.yaml'}"
            )

    def _finished(self, run: Path) -> str:
        """What is said of a run that is through, so that there is nothing to resume; of another one nothing."""
        folder = RunFolder.open(run)
        task, config = load_config(folder.configuration(), self.table.task if self.asked else None)
        result = folder.finished(expected(task, config), config, told=str)
        if result is None:
            return ""
        change = self._change(folder)
        if change:
            position = folder.read_checkpoint(told=str)["position"]
            self._record(folder, task, position["epoch"], position["step"])
        figure, reached = task.headline, result.get(f"test_{task.headline.name}")
        value = f", test {figure.heading} {figure.shown(reached)}" if isinstance(reached, int | float) else ""
        return change + (
            f"{run} is finished{value}; there is nothing to resume. To train longer or otherwise, start a new run: "
            f"dynamicblocks train --config {shlex.quote(str(folder.configuration()))} --run NAME"
        )

    def _resumed(self, run: Path, shown: dict[str, Any]) -> Training:
        folder = RunFolder.open(run)
        own = self.table.task if self.asked else None
        training = Training(*load_config(folder.configuration(), own), resume=folder.path, **shown)
        change = self._change(folder)
        if change:
            say(training.console, change.rstrip())
            if training.fabric.global_rank == 0:
                self._record(folder, training.task, training.state.epoch, training.state.step)
        return training

    def _change(self, folder: RunFolder) -> str:
        """A line of what is said where the file of the task is another one than the run's, and else nothing."""
        reference, _ = written_in_file(folder.configuration())
        note = changed_since(reference, self.table.task if self.asked else None)
        return note and f"Note: {note}\n"

    def _record(self, folder: RunFolder, task: Task[Any], epoch: int, step: int) -> None:
        """Write down that the file of the task is another one from here on."""
        reference, _ = written_in_file(folder.configuration())
        event = {"event": "task", "from": reference, "to": task.reference}
        folder.append("events.jsonl", {**event, "epoch": epoch, "step": step})


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def command_for(arguments: Sequence[str]) -> tuple[TrainCommand, Namespace]:
    """The command for the task and the model named among the arguments or in files, and the flags that are no options.

    Flags have the last word, then files, the last of them first, then the preset of a published model.

    Raises:
        ConfigurationError: no such flag, task, model or file.
    """
    asked = _value(dict(written_as_flags(arguments).options), "task")
    own = None if asked is None else asked_task(asked)
    part = asked if own is None else None
    # An equation stands for the task that fits it.
    task, files = own or named_task("dynamics" if part else USUAL_TASK), []
    for file in _files(arguments):
        try:
            reference, written = written_in_file(Path(file))
            task = task if reference is None else task_of_run(reference, own, Path(file))
        except StorageError as error:  # here it is what the caller wrote
            raise ConfigurationError(f"--config: {error}") from error
        files.append(written)
    # Another task may have options of the same names.
    preset, rest = split(arguments, published=task.name == USUAL_TASK)
    flags = dict(written_as_flags(rest).options)
    others = Namespace(
        task=asked,
        resume=_value(flags, "resume"),
        debug=_switched(flags, "debug"),
        print_config=_switched(flags, "print_config"),
        quiet=_switched(flags, "quiet"),
        table=_value(flags, "table") or "few",
        logger=_loggers(rest),
        seeds=None,
    )
    flags.pop("logger", None)
    if part and task.name == "dynamics" and others.resume is None:
        flags.setdefault("model.equation", (part,))
    if "seeds" in flags:
        others.seeds = seeds_of(flags.pop("seeds"), {**flags, "resume": others.resume})
    check_table(others.table)
    check_loggers(others.logger)
    given = Written({name: texts for name, texts in flags.items() if name not in ("task", "config")})
    table = table_of(task, [written_as_flags(preset), *files, given])
    usual = Written({path: text for path, text in written_as_flags(preset).options.items() if path in table.options})
    return TrainCommand(table, (usual, *files, given), own is not None), others


def _files(arguments: Sequence[str]) -> list[str]:
    """The files that --config names."""
    found = [_value({"config": texts}, "config") for texts in _each(arguments, "config")]
    return [file for file in found if file is not None]


def _loggers(arguments: Sequence[str]) -> list[str]:
    """The names behind --logger."""
    names: list[str] = []
    for texts in _each(arguments, "logger"):
        found = [name for name in ",".join(texts).strip("[]").replace(" ", ",").split(",") if name]
        if not found:
            raise ConfigurationError("--logger expects one or several names, got nothing")
        names += found
    return names


def _each(arguments: Sequence[str], name: str) -> Iterator[Sequence[str]]:
    """The texts behind a flag, each time that it comes: as far as the next one."""
    for place, token in enumerate(arguments):
        if token.partition("=")[0] == f"--{name}":
            behind = next((end for end in range(place + 1, len(arguments)) if arguments[end].startswith("--")), None)
            yield dict(written_as_flags(arguments[place:behind]).options)[name]


def _value(flags: dict[str, Any], name: str) -> str | None:
    """The one text behind a flag, which is taken away."""
    texts = flags.pop(name, None)
    if texts is None:
        return None
    if len(texts) != 1 or not texts[0]:
        raise ConfigurationError(f"--{name} expects one value, got {' '.join(texts) or 'nothing'}")
    return str(texts[0])


def _switched(flags: dict[str, Any], name: str) -> bool:
    """Whether a flag without a value is there, which is taken away."""
    texts = flags.pop(name, None)
    if texts:
        raise ConfigurationError(f"--{name} takes no value, got {' '.join(texts)!r}")
    return texts is not None


def show(outcome: Outcome, training: Training, console: Console, again: str = "") -> None:
    """The result, the same weights in other manifestations, and what to do next, with the flags of ``again``."""
    task, headline = training.task, training.task.headline
    test, chosen = (headline.shown(score[headline.name]) for score in (outcome.test, outcome.validation))
    say(
        console,
        f"\nTest {headline.heading} {test} ({outcome.test.samples} {task.unit}, read once). Weights of epoch "
        f"{outcome.kept_epoch + 1}, the {training.config.keep} ({chosen} on the validation {task.unit}). "
        f"{outcome.seconds:.1f} s of training.",
        style="bold",
    )
    run = shlex.quote(str(outcome.folder))
    if outcome.manifestations:
        say(console, f"\n{manifestation_table(outcome, task)}")
        notes = [caveat(outcome.net, [other.integrator for other in outcome.manifestations])]
        if outcome.left_out:
            whole = len(outcome.left_out) + len(outcome.manifestations)
            notes.append(
                f"{len(outcome.left_out)} of {whole} are left out: all of them take more than a third of the "
                f"evaluations of the training. To see them: dynamicblocks converge {run}{again}"
            )
        for note in filter(None, notes):
            say(console, note)
        say(console, "")
    other = " --integrator rk4 --steps 16" if solves_its_equation(outcome.net, "rk4") else ""
    for picture in outcome.pictures:
        say(console, f"Drawn: {picture}")
    say(console, f"Run written to {outcome.folder}\nNext:")
    of_blocks = [f"dynamicblocks {each} {run}{again}" for each in ("converge", "compress")]
    for command in (*(of_blocks if named_blocks(outcome.net) else ()), f"dynamicblocks evaluate {run}{again}{other}"):
        say(console, f"  {command}")


def manifestation_table(outcome: Outcome, task: Task[Any]) -> str:
    """The task's main figure on the test samples, by integrator and number of steps."""
    headline, trained = task.headline, own_integrator(outcome.net)
    factors = sorted({other.steps_factor for other in outcome.manifestations})
    found = {(other.integrator, other.steps_factor): other.score[headline.name] for other in outcome.manifestations}
    rows = []
    for integrator in dict.fromkeys(integrator for integrator, _ in found):
        cells = (found.get((integrator, factor)) for factor in factors)
        name = f"{integrator} (trained)" if integrator == trained else integrator
        rows.append([name, *("" if value is None else headline.shown(value) for value in cells)])
    head = ["integrator", *("steps as trained" if factor == 1 else f"{factor} x steps" for factor in factors)]
    return plain_table(f"Test {headline.heading} of the same weights, by integrator and steps", head, rows, text=1)
