"""``dynamicblocks converge``."""

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from dynamicblocks.analysis import Panel, draw_manifestations
from dynamicblocks.cli import checks
from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.console import Bars, add_quiet_argument, make_console, say
from dynamicblocks.cli.loading import ReadyRun, add_device_arguments, load_all, refusal, say_where
from dynamicblocks.cli.table import table
from dynamicblocks.cli.tolerances import sweep
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import num_weights
from dynamicblocks.training import Figure
from dynamicblocks.training.environment import environment
from dynamicblocks.training.manifestations import (
    Manifestation,
    caveat,
    comparable,
    evaluations_in,
    manifestations,
)
from dynamicblocks.training.progress import evaluation_steps
from dynamicblocks.training.storage import write_json

USAGE = (
    "dynamicblocks converge RUN [--beside RUN ...] [--integrators NAMES --factors NUMBERS | --tolerances NUMBERS] ..."
)
DESCRIPTION = """Evaluate the weights of a run under several integrators and step counts, without training them further.

A network of continuous depth stays as good; a plain residual network, given with --beside, does not. What is drawn is
the main figure of the run's task: the accuracy of a classification.
Writes convergence.json and convergence.png into the folder of the run.

Where the integrator of the training chooses its own steps, --tolerances shows instead what its tolerance is worth:
figure, evaluations of a pass and time at each, in tolerances.json and tolerances.png.

Example: dynamicblocks converge runs/MINE --beside runs/PLAIN --integrators [euler,midpoint,rk4] --factors [1,2,4]
Example: dynamicblocks converge runs/ODENET --tolerances 1e-1 1e-2 1e-3 1e-4 1e-5 1e-6"""

INTEGRATORS = ("euler", "midpoint", "rk4", "rk4_classic")
FACTORS = (1, 2, 4)


def add_arguments(parser: Arguments) -> None:
    """The runs, and what to evaluate them with."""
    parser.add_argument("run", type=str, help="the folder of a run", check=checks.run_folder)
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of other runs, such as a plain ResNet",
        check=checks.run_folders,
    )
    parser.add_argument(
        "--integrators",
        type=list[str],
        help="see `dynamicblocks integrators`; by default the one of the training, and of "
        f"{', '.join(INTEGRATORS)} those that solve the same equation",
        check=checks.integrators,
    )
    parser.add_argument(
        "--factors",
        type=list[int],
        default=list(FACTORS),
        help="multiples of the steps of the training",
        check=checks.factors,
    )
    parser.add_argument(
        "--tolerances",
        type=list[float],
        help="of blocks that choose their steps, relative and absolute, instead of --integrators and --factors",
        check=checks.tolerances,
    )
    parser.add_argument("--split", type=Literal["test", "validation"], default="test", help="which samples")
    add_device_arguments(parser)
    add_quiet_argument(parser, "the files that were written")


def run(options: Namespace) -> None:
    """Evaluate run by run; each is printed, written and drawn when it is measured, so that a stop loses only one."""
    console = make_console(options)
    bars = Bars(console)
    if options.tolerances is not None:
        if options.integrators is not None or options.factors != list(FACTORS):
            raise ConfigurationError(
                "--tolerances keeps the integrator of the training, whose steps it decides; leave out --integrators "
                "and --factors, or --tolerances"
            )
        sweep(options, console, bars)
        return
    runs = load_all(options, [options.run, *options.beside], options.split, bars)
    folder, task = runs[0].folder.path, runs[0].task
    subject = f"{options.split} {task.unit} of {runs[0].source}"
    files = (folder / "convergence.json", folder / "convergence.png")
    panels: list[Panel] = []
    refused = ""
    for one in runs:
        panels.append(Panel(one.title, one.integrator, _manifestations(one, options, bars)))
        say(console, _table(one, panels[-1].found, options.split))
        record = {
            **environment(),
            "split": options.split,
            "data": task.load(),
            "precision": runs[0].precision,
            "runs": [_record(*pair) for pair in zip(runs, panels, strict=False)],
        }
        refused = refused or refusal(partial(_write, record, panels, *files, subject, task.headline))
    say_where(files, refused)
    if not options.beside:
        say(console, "To see a plain residual network fail the same change, train one and add --beside ITS_RUN.")


def _write(record: Any, panels: Sequence[Panel], json: Path, picture: Path, subject: str, figure: Figure) -> None:
    write_json(json, record, indent=1)
    draw_manifestations(panels, picture, subject=subject, figure=figure)


def _record(one: ReadyRun, panel: Panel) -> dict[str, Any]:
    return {
        "folder": one.folder.path.name,
        "title": panel.title,
        "trained_with": panel.trained_with,
        "weights": num_weights(one.net),
        "manifestations": [each.as_record(one.task.unit) for each in panel.found],
    }


def _manifestations(one: ReadyRun, options: Namespace, bars: Bars) -> list[Manifestation]:
    integrators, factors = options.integrators, options.factors
    if integrators is None:
        integrators, factors = comparable(one.net, INTEGRATORS, factors)
    steps = evaluation_steps(one.batches)
    total = steps and steps * evaluations_in(one.net, product(integrators, factors))
    with bars.bar(f"{one.title}: {len(integrators) * len(factors)} ways to solve it", total) as bar:
        return manifestations(one.task, one.net, one.batches, one.fabric, integrators, factors, seen=bar.advance)


def _table(one: ReadyRun, found: Sequence[Manifestation], split: str) -> str:
    headline = one.task.headline
    others = [figure for figure in one.task.figures if figure is not headline]
    figures = (headline.heading, "change", *(figure.heading for figure in others), f"{one.task.unit}/s")
    trained = [each for each in found if (each.integrator, each.steps_factor) == (one.integrator, 1)]
    rows = []
    for each in found:
        own, value = each in trained, each.score[headline.name]
        rows.append(
            (
                f"{each.integrator} (trained)" if own else each.integrator,
                f"{each.steps_factor} x",
                str(each.evaluations),
                headline.shown(value),
                "" if own or not trained else headline.change(trained[0].score[headline.name], value),
                *(figure.shown(each.score[figure.name]) for figure in others),
                f"{each.score.samples_per_second:,.0f}",
            )
        )
    title = f"{one.title} ({one.folder.path.name}), {one.batches.samples} {split} {one.task.unit}"
    said = caveat(one.net, [each.integrator for each in found])
    shown = table(title, ("integrator", "steps", "evaluations", *figures), rows, text=1)
    return f"\n{shown}\n{said}\n" if said else f"\n{shown}\n"
