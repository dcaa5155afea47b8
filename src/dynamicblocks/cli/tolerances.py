"""``dynamicblocks converge --tolerances``: one trained network, solved to several tolerances."""

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dynamicblocks.analysis import Swept, draw_tolerances
from dynamicblocks.cli.console import Bars, say
from dynamicblocks.cli.loading import ReadyRun, load_all, refusal, say_where
from dynamicblocks.cli.table import table
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Adaptive
from dynamicblocks.network import named_blocks, num_weights
from dynamicblocks.training import AtTolerance, Figure, at_tolerances
from dynamicblocks.training.environment import environment
from dynamicblocks.training.progress import evaluation_steps
from dynamicblocks.training.storage import write_json


def sweep(options: Namespace, console: Console, bars: Bars) -> None:
    """Evaluate run by run; each is printed, written and drawn when it is measured, so that a stop loses only one."""
    runs = load_all(options, [options.run, *options.beside], options.split, bars)
    for one in runs:
        _check(one)
    folder, task = runs[0].folder.path, runs[0].task
    subject = f"{options.split} {task.unit} of {runs[0].source}"
    files = (folder / "tolerances.json", folder / "tolerances.png")
    lines: list[Swept] = []
    refused = ""
    for one in runs:
        lines.append(Swept(one.title, _swept(one, options.tolerances, bars)))
        say(console, _table(one, lines[-1].found, options.split))
        record = {
            **environment(),
            "split": options.split,
            "data": task.load(),
            "precision": runs[0].precision,
            "runs": [_record(*pair) for pair in zip(runs, lines, strict=False)],
        }
        refused = refused or refusal(partial(_write, record, lines, *files, subject, task.headline))
    say_where(files, refused)


def _check(one: ReadyRun) -> None:
    blocks = named_blocks(one.net).values()
    if not any(isinstance(block.integrator, Adaptive) for block in blocks):
        raise ConfigurationError(
            f"--tolerances: no block of {one.folder.path} chooses its own steps ({one.integrator}), so a tolerance "
            "would change nothing; see other steps with --integrators and --factors, of which --integrators "
            '"dopri5(rtol=0.001, atol=0.001)" is one, or train with --model.integrator dopri5'
        )


def _write(record: Any, lines: Sequence[Swept], json: Path, picture: Path, subject: str, figure: Figure) -> None:
    write_json(json, record, indent=1)
    draw_tolerances(lines, picture, subject=subject, figure=figure)


def _record(one: ReadyRun, line: Swept) -> dict[str, Any]:
    return {
        "folder": one.folder.path.name,
        "title": one.title,
        "trained_with": one.integrator,
        "weights": num_weights(one.net),
        "samples": one.batches.samples,
        "tolerances": [each.as_record(one.task.unit) for each in line.found],
    }


def _swept(one: ReadyRun, tolerances: Sequence[float], bars: Bars) -> list[AtTolerance]:
    steps = evaluation_steps(one.batches)
    total = steps and steps * len(tolerances)
    with bars.bar(f"{one.title}: {len(tolerances)} tolerances", total) as bar:
        return at_tolerances(one.task, one.net, one.batches, one.fabric, tolerances, seen=bar.advance)


def _table(one: ReadyRun, found: Sequence[AtTolerance], split: str) -> str:
    headline = one.task.headline
    figures = (headline, *(figure for figure in one.task.figures if figure is not headline))
    error = headline.name == "accuracy"
    rows = []
    for each in found:
        name = f"{each.tolerance:.0e} (trained)" if each.trained else f"{each.tolerance:g}"
        if each.score is None:
            rows.append((name, "", *[""] * (len(figures) + error), "no solution"))
            continue
        score = each.score
        rows.append(
            (
                name,
                f"{each.evaluations:.1f}",
                *([headline.shown(1 - score[headline.name])] if error else []),
                *(figure.shown(score[figure.name]) for figure in figures),
                f"{1e3 / score.samples_per_second:.3g}",
            )
        )
    title = f"{one.title} ({one.folder.path.name}), {one.batches.samples} {split} {one.task.unit}"
    headings = [*(["error"] if error else []), *(figure.heading for figure in figures)]
    shown = table(title, ("tolerance", "evaluations", *headings, f"ms per {_singular(one.task.unit)}"), rows, text=1)
    failures = [f"At {each.tolerance:g}: {each.failure}" for each in found if each.score is None]
    return "\n".join(["", shown, *failures, ""])


def _singular(unit: str) -> str:
    return unit if unit == "series" else unit.removesuffix("s")
