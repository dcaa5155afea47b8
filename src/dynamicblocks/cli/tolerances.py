"""``dynamicblocks converge --tolerances``: one trained network, solved to several tolerances."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from dynamicblocks.analysis import Swept, draw_tolerances
from dynamicblocks.cli.console import Bars
from dynamicblocks.cli.loading import ReadyRun, load_all
from dynamicblocks.cli.run_by_run import Sweep, run_by_run
from dynamicblocks.cli.table import table
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Adaptive
from dynamicblocks.network import named_blocks
from dynamicblocks.training import at_tolerances
from dynamicblocks.training.progress import evaluation_steps


def sweep(options: Namespace, console: Console, bars: Bars) -> None:
    """Evaluate the runs at each tolerance."""
    runs = load_all(options, [options.run, *options.beside], options.split, bars)
    for one in runs:
        _check(one)
    finer = Sweep("tolerances", lambda one: _swept(one, options.tolerances, bars), _table, _record, draw_tolerances)
    run_by_run(finer, runs, options.split, console)


def _check(one: ReadyRun) -> None:
    blocks = named_blocks(one.net).values()
    if not any(isinstance(block.integrator, Adaptive) for block in blocks):
        raise ConfigurationError(
            f"--tolerances: no block of {one.folder.path} chooses its own steps ({one.integrator}), so a tolerance "
            "would change nothing; see other steps with --integrators and --factors, of which --integrators "
            '"dopri5(rtol=0.001, atol=0.001)" is one, or train with --model.integrator dopri5'
        )


def _record(one: ReadyRun, line: Swept) -> dict[str, Any]:
    return {"samples": one.batches.samples, "tolerances": [each.as_record(one.task.unit) for each in line.found]}


def _swept(one: ReadyRun, tolerances: Sequence[float], bars: Bars) -> Swept:
    steps = evaluation_steps(one.batches)
    total = steps and steps * len(tolerances)
    with bars.bar(f"{one.title}: {len(tolerances)} tolerances", total) as bar:
        found = at_tolerances(one.task, one.net, one.batches, one.fabric, tolerances, seen=bar.advance)
    return Swept(one.title, found)


def _table(one: ReadyRun, line: Swept, title: str) -> str:
    found = line.found
    headline = one.task.headline
    figures = (headline, *(figure for figure in one.task.figures if figure is not headline))
    error = headline.name == "accuracy"
    rows = []
    for each in found:
        name = f"{each.tolerance:g}{' (trained)' if each.trained else ''}"
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
    headings = [*(["error"] if error else []), *(figure.heading for figure in figures)]
    shown = table(title, ("tolerance", "evaluations", *headings, f"ms per {_singular(one.task.unit)}"), rows, text=1)
    failures = [f"At {each.tolerance:g}: {each.failure}" for each in found if each.score is None]
    return "\n".join(["", shown, *failures, ""])


def _singular(unit: str) -> str:
    return unit if unit == "series" else unit.removesuffix("s")
