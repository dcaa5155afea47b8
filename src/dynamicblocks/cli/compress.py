"""``dynamicblocks compress``."""

import math
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from dynamicblocks.analysis import Compression, changed, compress, halved
from dynamicblocks.analysis.compression import INTEGRATORS
from dynamicblocks.cli import checks
from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.console import Bars, add_quiet_argument, make_console, say
from dynamicblocks.cli.loading import ReadyRun, add_device_arguments, load_all
from dynamicblocks.cli.table import table
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.integrators import as_integrator
from dynamicblocks.network import evaluations_of, num_weights
from dynamicblocks.times import check_amount
from dynamicblocks.training import Figure, evaluate
from dynamicblocks.training.environment import environment
from dynamicblocks.training.evaluation import Score, answered, evaluation_mode, score_of
from dynamicblocks.training.progress import evaluation_steps
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import form_of, recorded

USAGE = "dynamicblocks compress RUN [--tolerance 0.2%] [--beside RUN] [--to FOLDER] ..."
DESCRIPTION = """Find, for each block, the cheapest integrator, time grid and number of controls that are about as good.

What is kept is the main figure of the run's task: the accuracy of a classification. The tolerance holds on the
validation samples and on training samples, changed at random as in training. On the latter, moreover, answers may
hardly differ from those of the network as it was: where samples are few, the figure alone is a matter of chance.
Of a share (an accuracy, a relative error) the tolerance is in points, 0.2%. Of another figure it is a number in its
unit, or with % a share of what it was.
Statistics are measured anew on training samples; test samples are read at the end, before and after. The result is a
new run folder, which the other commands read like any other.

Example: dynamicblocks compress runs/MINE --tolerance 0.2% --beside runs/PLAIN"""

REPEATS = 3
# What the tolerance holds on, beside the validation samples: so many training samples, changed as in training.
CHANGED_SAMPLES = 2000


def add_arguments(parser: Arguments) -> None:
    """The run, how much may be lost, and where to write."""
    parser.add_argument("run", type=str, help="the folder of a run", check=checks.run_folder)
    parser.add_argument(
        "--tolerance",
        default="0.2%",
        help="by how much the main figure may become worse, such as 0.2%",
        check=check_tolerance,
    )
    parser.add_argument(
        "--disagreement",
        default="0.5%",
        help="the same of the answers on changed training samples, beside those of the network as it was",
        check=check_tolerance,
    )
    parser.add_argument("--beside", help="folder of a second run, such as a plain ResNet", check=checks.run_folder)
    parser.add_argument("--to", metavar="FOLDER", help="folder of the new run; by default RUN-compressed")
    parser.add_argument(
        "--integrators",
        type=list[str],
        help=f"see `dynamicblocks integrators`; by default {', '.join(INTEGRATORS)} and the one of the training",
        check=check_integrators,
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=16,
        help="training batches on which statistics are measured",
        check=checks.count(),
    )
    add_device_arguments(parser)
    add_quiet_argument(parser, "the folder of the new run")


def run(options: Namespace) -> None:
    """Search, write the new run, and report both networks on the test samples."""
    console = make_console(options)
    bars = Bars(console)
    target = Path(f"{options.run.rstrip('/')}-compressed" if options.to is None else options.to)
    RunFolder.check_free(target, "--to")
    paths = [options.run] if options.beside is None else [options.run, options.beside]
    one, *others = load_all(options, paths, "validation", bars)
    plain = others[0] if others else None
    tolerance = Tolerance.read(options.tolerance, one.task.headline)
    sets = _sets(one, tolerance, Tolerance.read(options.disagreement, one.task.headline))
    found = _search(one, sets, options, bars)
    rows: list[dict[str, Any]] = [_tested(one, "before", one.net, bars), _tested(one, "compressed", found.net, bars)]
    if plain is not None:
        same = changed(plain.net, halved(plain.net), _training_inputs(plain, options.batches))
        rows += [_tested(plain, "before", plain.net, bars), _tested(plain, "half the steps", same, bars)]
    say(console, f"\n{_table(rows, one)}\n")
    _print_blocks(one, sets, found, console)
    result = {
        "compressed_from": str(one.folder.path),
        **{f"test_{figure.name}": rows[1][figure.name] for figure in one.task.figures},
        **{f"validation_{figure.name}": found.after[0][figure.name] for figure in one.task.figures},
        "weights": rows[1]["weights"],
        "tolerance": tolerance.value,
        "scores": {
            each.name: {
                "before": before.as_record(one.task.unit),
                "after": after.as_record(one.task.unit),
                "tolerance": each.tolerance,
            }
            for each, before, after in zip(sets, found.before, found.after, strict=True)
        },
        "networks_tried": found.tried,
        "blocks": {name: asdict(each) for name, each in found.chosen.items()},
        "test": rows,
        "data": one.task.load(),
    }

    def fill(folder: RunFolder) -> None:
        folder.write_weights(found.net.state_dict(), recorded(one.task, one.config), form_of(one.task, found.net))
        folder.write_result(result)

    record = {**environment(), "compressed_from": str(one.folder.path)}
    RunFolder.create(target, recorded(one.task, one.config), record, fill)
    again = f" --task {shlex.quote(options.task)}" if options.task else ""
    say(make_console(), f"Run written to {target}")
    say(console, f"Next:\n  dynamicblocks evaluate {shlex.quote(str(target))}{again}")


def check_integrators(names: Sequence[str]) -> list[str]:
    """Integrators whose costs are known, each once."""
    found = checks.integrators(names) or []
    for name in found:
        if not as_integrator(name).fixed_cost:
            raise ConfigurationError(
                f"compression compares costs that are known beforehand, but the evaluations of {name!r} depend on the "
                "state; choose among explicit integrators on a grid, such as euler, midpoint and rk4"
            )
    return found


@dataclass(frozen=True)
class Tolerance:
    """By how much a figure may become worse.

    Args:
        value: in the figure's own unit, or
        relative: as a share of what it was.
    """

    value: float
    relative: bool = False

    @classmethod
    def read(cls, text: str, figure: Figure) -> "Tolerance":
        """A tolerance on the command line; 0.2% of a figure that is a share are points.

        >>> Tolerance.read("0.2%", Figure("relative_error", ".2%"))
        Tolerance(value=0.002, relative=False)
        >>> Tolerance.read("0.2%", Figure("error", ".3g")), Tolerance.read("20", Figure("error", ".3g"))
        (Tolerance(value=0.002, relative=True), Tolerance(value=20.0, relative=False))
        """
        if figure.percent:
            return cls(share(text))
        if text.strip().endswith("%"):
            return cls(share(text), relative=True)
        try:
            return cls(check_amount(float(text), "a tolerance"))
        except ValueError as error:
            raise ConfigurationError(
                f"a tolerance of {figure.heading} must be a number in its unit, zero or more, or a share of what it "
                f"was such as 0.2%, got {text!r}"
            ) from error

    def of(self, before: Callable[[], float]) -> float:
        """The tolerance in the figure's unit."""
        return self.value * abs(before()) if self.relative else self.value


def check_tolerance(text: str) -> str:
    """Raise for what is a tolerance of no figure."""
    found = re.fullmatch(r"\s*([^%]*?)\s*(%?)\s*", text)
    try:
        value = float(found[1]) if found else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value < (100 if found and found[2] else math.inf):
        raise ConfigurationError(
            f"it must lie between 0 % and 100 %, such as 0.2%, or be a number of at least 0 in the unit of the figure, "
            f"got {text!r}"
        )
    return text


def share(text: str) -> float:
    """A tolerance as a share: ``0.2%`` is 0.002.

    >>> share("0.2%")
    0.002
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if match is None:
        raise ConfigurationError(f"a tolerance must be a share such as 0.2% or 0.002, got {text!r}")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value < 1:
        raise ConfigurationError(f"a tolerance of a share must lie between 0 % and 100 %, got {text!r}")
    return value


@dataclass(frozen=True)
class Judged:
    """Samples on which the main figure is to stay as good.

    Args:
        name: what they are.
        score: of a network on them.
        tolerance: in the figure's unit.
    """

    name: str
    score: Callable[[nn.Module], Score]
    tolerance: float


def _sets(one: ReadyRun, tolerance: Tolerance, disagreement: Tolerance) -> list[Judged]:
    task, figure = one.task, one.task.headline
    # Small sets are seen several times, each time changed otherwise.
    epochs = chain.from_iterable(one.training.training(epoch) for epoch in count())
    batches = list(islice(epochs, max(1, CHANGED_SAMPLES // one.training.batch_size)))
    answers = [answered(task, one.net, batch, one.fabric) for batch in batches]

    def held_out(net: nn.Module) -> Score:
        return evaluate(task, net, one.batches, one.fabric)

    def on(given: Sequence[Any]) -> Callable[[nn.Module], Score]:
        return lambda net: score_of(task, net, given, one.fabric)

    def before(score: Callable[[nn.Module], Score]) -> Callable[[], float]:
        return lambda: score(one.net)[figure.name]

    changed_ones = f"changed training {task.unit}"
    sets = [
        Judged(f"validation {task.unit}", held_out, tolerance.of(before(held_out))),
        Judged(changed_ones, on(batches), tolerance.of(before(on(batches)))),
    ]
    if all(answer is not None for answer in answers):
        # Beside its own answers a network errs by nothing: a share is one of its error beside the true ones.
        allowed = disagreement.of(before(on(batches)))
        sets.append(Judged(f"{changed_ones} answered as before", on(answers), allowed))
    return sets


def _training_inputs(one: ReadyRun, wanted: int) -> list[Any]:
    """What the network is called with in training, on which running statistics are measured.

    Raises:
        ConfigurationError: the task says something else.
    """
    convert = one.fabric.strategy.precision.convert_input
    inputs = [convert(one.task.inputs(batch)) for batch in islice(one.training.training(0), wanted)]
    try:
        with evaluation_mode(one.net), torch.inference_mode():
            one.net(inputs[0])
    except SolverError:
        raise
    except Exception as error:  # whatever a network may raise
        raise ConfigurationError(
            f"the network of {one.folder.path} cannot be called with what inputs of the task {one.task.name} gives, a "
            f"{type(inputs[0]).__name__} ({type(error).__name__}: {error!s:.200}); mend inputs(batch) in the task"
        ) from error
    return inputs


def _search(one: ReadyRun, sets: Sequence[Judged], options: Namespace, bars: Bars) -> Compression:
    with bars.bar("trying discretisations") as bar:
        return compress(
            one.net,
            [each.score for each in sets],
            _training_inputs(one, options.batches),
            tolerance=[each.tolerance for each in sets],
            figure=one.task.headline,
            integrators=options.integrators,
            progress=lambda tried: bar.show(f"trying discretisations: {tried}"),
        )


def _tested(one: ReadyRun, state: str, net: nn.Module, bars: Bars) -> dict[str, Any]:
    """Cost and figures on the test samples; the throughput is the best of a few passes."""
    steps = evaluation_steps(one.test)
    with bars.bar(f"test {one.task.unit}: {one.model}, {state}", steps and steps * REPEATS) as bar:
        scores: list[Score] = [evaluate(one.task, net, one.test, one.fabric, bar.step) for _ in range(REPEATS)]
    return {
        "network": one.model,
        "state": state,
        "weights": num_weights(net),
        "evaluations": evaluations_of(net),
        **scores[0].figures,
        f"{one.task.unit}_per_second": max(score.samples_per_second for score in scores),
    }


def _table(rows: Sequence[Mapping[str, Any]], one: ReadyRun) -> str:
    figure, unit = one.task.headline, one.task.unit
    difference = "points" if figure.percent else "change"
    head = ("network", "", "weights", "evaluations", f"{unit}/s", "times as fast", figure.heading, difference)
    speed = f"{unit}_per_second"
    shown = []
    for index, row in enumerate(rows):
        first = rows[index - index % 2]
        shown.append(
            (
                row["network"],
                row["state"],
                f"{row['weights']:,}",
                str(row["evaluations"]),
                f"{row[speed]:,.0f}",
                "" if row is first else f"{row[speed] / first[speed]:.2f}",
                figure.shown(row[figure.name]),
                "" if row is first else figure.change(first[figure.name], row[figure.name]),
            )
        )
    return table(f"On {one.test.samples} test {unit}", head, shown, text=2)


def _print_blocks(one: ReadyRun, sets: Sequence[Judged], found: Compression, console: Console) -> None:
    for name, each in found.chosen.items():
        controls = "projected weights" if each.projected else "the weights as they are"
        times = ", ".join(f"{time:g}" for time in each.times)
        say(console, f"{name}: {each.integrator}, {each.steps} steps at {times} ({each.grid}), {controls}")
    if not found.chosen:
        say(console, "No cheaper discretisation stays within the tolerance; the network is as it was.")
    figure = one.task.headline
    say(console, f"Chosen among {found.tried} networks by their {figure.heading} on")
    for judged, before, after in zip(sets, found.before, found.after, strict=True):
        change = f"{figure.shown(before[figure.name])} -> {figure.shown(after[figure.name])}"
        say(console, f"  {before.samples} {judged.name}: {change}")
