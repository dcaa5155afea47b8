"""What a training shows while it runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from dynamicblocks.training.task import Task

# Reading a loss waits for the device, so it is read no more often than this.
REFRESH_SECONDS = 0.5


class TrainingBar:
    """A progress bar with the task's figures, its throughput and the time left."""

    def __init__(self, progress: Progress, bar: TaskID, task: Task[Any]) -> None:
        self._progress = progress
        self._bar = bar
        self._task = task
        self._shown = time.perf_counter()

    def step(self, done: int, epoch: int, sums: Tensor, per_second: float) -> None:
        """Show ``done`` steps; ``sums`` are those of this epoch so far."""
        now = time.perf_counter()
        if now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        found = self._task.measured(dict(zip(self._task.sums, sums.tolist(), strict=True)))
        figures = "  ".join(f"{each.heading} {each.shown(found[each.name])}" for each in self._task.figures)
        text = f"epoch {epoch + 1}  {figures}  {per_second:,.0f} {self._task.unit}/s"
        self._progress.update(self._bar, completed=done, text=text)

    def finish(self, done: int) -> None:
        """Show the last step."""
        self._progress.update(self._bar, completed=done)


@contextmanager
def training_bar(console: Console, task: Task[Any], steps: int, done: int) -> Iterator[TrainingBar]:
    """A bar over ``steps`` steps, of which ``done`` lie behind."""
    progress = Progress(
        TextColumn("{task.fields[text]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    with progress:
        bar = progress.add_task("training", total=steps, completed=done, text="training")
        yield TrainingBar(progress, bar, task)
