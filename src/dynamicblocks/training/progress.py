"""What a training shows while it runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

# Reading a loss waits for the device, so it is read no more often than this.
REFRESH_SECONDS = 0.5


class TrainingBar:
    """A progress bar with loss, accuracy, images/s and time left."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._shown = time.perf_counter()

    def step(self, done: int, epoch: int, sums: Tensor, images_per_second: float) -> None:
        """Show ``done`` steps; ``sums`` holds the loss, the right answers and the images of this epoch so far."""
        now = time.perf_counter()
        if now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        loss, correct, images = sums.tolist()
        text = f"epoch {epoch + 1}  loss {loss / images:.4f}  accuracy {correct / images:.1%}  "
        self._progress.update(self._task, completed=done, text=text + f"{images_per_second:,.0f} images/s")

    def finish(self, done: int) -> None:
        """Show the last step."""
        self._progress.update(self._task, completed=done)


@contextmanager
def training_bar(console: Console, steps: int, done: int) -> Iterator[TrainingBar]:
    """A bar over ``steps`` steps, of which ``done`` lie behind."""
    progress = Progress(
        TextColumn("{task.fields[text]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    with progress:
        task = progress.add_task("training", total=steps, completed=done, text="training")
        yield TrainingBar(progress, task)
