"""What a training shows while it runs."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from dynamicblocks.bars import Bar, Bars, say
from dynamicblocks.training.engine import Cost
from dynamicblocks.training.evaluation import Score
from dynamicblocks.training.loggers import Loggers
from dynamicblocks.training.task import Batches, Task

# Reading a loss waits for the device, so it is read no more often than this.
REFRESH_SECONDS = 0.5


class Report:
    """Everything that a training shows: notes, a line an epoch and, on a terminal, a bar for whatever takes long.

    Args:
        console: where to.
        task: whose figures these are.
    """

    def __init__(self, console: Console, task: Task[Any]) -> None:
        self.console = console
        self.loggers = Loggers((), Path())
        self._task = task
        self._bars = Bars(console)
        self._bar = Bar()
        self._total = self._epochs = 0
        self._shown = time.perf_counter()
        self._begun = (self._shown, 0)

    def note(self, text: str, style: str = "") -> None:
        """A line."""
        say(self.console, text, style)

    @contextmanager
    def working(self, text: str, total: int | None = None, *, said: bool = True) -> Iterator[Bar]:
        """A bar for something else that takes long; where nothing moves a line, if it is to be ``said``."""
        with self._bars.bar(text, total, said=said) as bar:
            yield bar

    @contextmanager
    def training(self, total: int, done: int, epochs: int) -> Iterator[None]:
        """A bar over the steps of the training, of which ``done`` lie behind."""
        self._total, self._epochs = total, epochs
        self._begun = (time.perf_counter(), done)
        if done < total:
            self.note(f"At the end of each epoch, on the validation {self._task.unit}:")
        self.loggers.begin(done)
        status = "failed"
        try:
            with self._bars.bar("training", total, done=done, said=False) as self._bar:
                yield
            status = "success"
        finally:
            self.loggers.finish(status)

    def loss(self, done: int, loss: Tensor) -> None:
        """The loss of a step, after ``done`` others."""
        self.loggers.loss(done, loss)

    def step(self, done: int, epoch: int, sums: Tensor, per_second: float) -> None:
        """Show ``done`` steps; ``sums`` are those of this epoch so far."""
        now = time.perf_counter()
        if not self._bars.moving or now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        figures = self._figures(self._task.measured(dict(zip(self._task.sums, sums.tolist(), strict=True))))
        self._bar.show(f"epoch {epoch + 1}  {figures}  {per_second:,.0f} {self._task.unit}/s", done)
        self.loggers.write_losses()

    def back_to(self, done: int) -> None:
        """Go on from a step before."""
        self._begun = (time.perf_counter(), done)
        self._bar.show(done=done)
        self.loggers.begin(done)

    def epoch(
        self, epoch: int, done: int, trained: Score, score: Score, rate: float, per_second: float, cost: Cost
    ) -> None:
        """The line of an epoch, ``done`` steps into the training: what it reached, how fast, and how long is left.

        And, where the network does not fix them, the evaluations of an average step.
        """
        begun, before = self._begun
        left = (time.perf_counter() - begun) / max(1, done - before) * max(0, self._total - done)
        self._bar.show(done=done)
        evaluations = "" if cost.fixed else f"evaluations {cost.forward:.1f} + {cost.backward:.1f} back  "
        self.note(
            f"epoch {epoch + 1}/{self._epochs}  {self._figures(score.figures)}  rate {rate:.3g}  {evaluations}"
            f"{per_second:,.0f} {self._task.unit}/s  {duration(left)} left"
        )
        self.loggers.write_losses()
        figures = {
            "epoch": epoch + 1,
            "rate": rate,
            **{f"train/{name}": value for name, value in trained.figures.items()},
            **{f"validation/{name}": value for name, value in score.figures.items()},
            f"{self._task.unit}_per_second": per_second,
        }
        if not cost.fixed:
            figures |= {"evaluations/forward": cost.forward, "evaluations/backward": cost.backward}
        self.loggers.write(figures, done)

    def _figures(self, found: Mapping[str, float]) -> str:
        # Some may be told of evaluations alone.
        told = (each for each in self._task.figures if each.name in found)
        return "  ".join(f"{each.heading} {each.shown(found[each.name])}" for each in told)


@contextmanager
def reading(task: Task[Any], console: Console | None) -> Iterator[None]:
    """A bar while the data of a task are read, which is before a process of several knows of the others."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with Bars((console or Console()) if first else Console(quiet=True)).bar(f"reading data: {task.title}", said=False):
        yield


def duration(seconds: float) -> str:
    """A length of time.

    >>> duration(75.2), duration(3601)
    ('1:15', '1:00:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def evaluation_steps(batches: Batches[Any]) -> int | None:
    """Batches in an evaluation of a split, where its batches know; those of a task of one's own need not."""
    found = getattr(batches, "evaluation_steps", None)
    return found if isinstance(found, int) else None
