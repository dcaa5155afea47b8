"""Runs that are measured one after the other: each is printed, written and drawn at once, so a stop loses only one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console

from dynamicblocks.cli.console import say
from dynamicblocks.cli.loading import ReadyRun, refusal, say_where
from dynamicblocks.network import num_weights
from dynamicblocks.training import Figure
from dynamicblocks.training.environment import environment
from dynamicblocks.training.storage import write_json

Found = TypeVar("Found")
Drawn = TypeVar("Drawn", contravariant=True)


class Draw(Protocol[Drawn]):
    """Draws what was found of runs."""

    def __call__(self, found: Sequence[Drawn], path: Path, /, *, subject: str, figure: Figure) -> None:
        """Into a PNG file: measured on ``subject``, by one figure of the task."""
        ...


@dataclass(frozen=True)
class Sweep(Generic[Found]):
    """What is measured of each run, and how it is told.

    Args:
        name: of the files in the folder of the first run, NAME.json and NAME.png.
        measure: a run.
        table: of what was found, with its title.
        record: of what was found, for the file.
        draw: what was found of all runs so far.
    """

    name: str
    measure: Callable[[ReadyRun], Found]
    table: Callable[[ReadyRun, Found, str], str]
    record: Callable[[ReadyRun, Found], dict[str, Any]]
    draw: Draw[Found]


def run_by_run(sweep: Sweep[Found], runs: Sequence[ReadyRun], split: str, console: Console) -> None:
    """Measure each run and tell of it."""
    folder, task = runs[0].folder.path, runs[0].task
    subject = f"{split} {task.unit} of {runs[0].source}"
    json, picture = folder / f"{sweep.name}.json", folder / f"{sweep.name}.png"

    def write(record: dict[str, Any], found: Sequence[Found]) -> None:
        write_json(json, record, indent=1)
        sweep.draw(found, picture, subject=subject, figure=task.headline)

    found: list[Found] = []
    records: list[dict[str, Any]] = []
    refused = ""
    for one in runs:
        found.append(sweep.measure(one))
        title = f"{one.title} ({one.folder.path.name}), {one.batches.samples} {split} {one.task.unit}"
        say(console, sweep.table(one, found[-1], title))
        records.append(
            {
                "folder": one.folder.path.name,
                "title": one.title,
                "trained_with": one.integrator,
                "weights": num_weights(one.net),
                **sweep.record(one, found[-1]),
            }
        )
        record = {
            **environment(),
            "split": split,
            "data": task.load(),
            "precision": runs[0].precision,
            "runs": records,
        }
        refused = refused or refusal(partial(write, record, found))
    say_where((json, picture), refused)
