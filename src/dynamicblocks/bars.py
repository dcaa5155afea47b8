"""Bars on a terminal, and lines.

Whatever takes long far below a command, such as a download, is shown on the same terminal as what the command shows
meanwhile: :func:`bars_in_use`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from dynamicblocks.visible import visible

BAR = 10


def say(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: brackets are no markup, and lines are as long as they are."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


class _Share(ProgressColumn):
    """How much is done, where that is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.percentage:3.0f}%")


class Bar:
    """One bar, or nothing where nothing moves."""

    def __init__(self, progress: Progress | None = None, place: TaskID | None = None) -> None:
        self._progress, self._place = progress, place

    def advance(self, amount: int = 1) -> None:
        """So much more is done."""
        if self._progress is not None and self._place is not None:
            self._progress.advance(self._place, amount)

    def step(self, _: int = 0) -> None:
        """One more is done, whatever its number."""
        self.advance()

    def show(self, text: str | None = None, done: int | None = None) -> None:
        """Another text, or so much done in all."""
        if self._progress is not None and self._place is not None:
            self._progress.update(self._place, completed=done, description=None if text is None else visible(text))


class Bars:
    """Bars on a terminal, one below the other while they are needed; elsewhere a line says what begins.

    Args:
        console: where they are.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None

    @property
    def moving(self) -> bool:
        """Whether there is a terminal, on which something can move."""
        return self.console.is_interactive and not self.console.quiet

    @contextmanager
    def bar(self, text: str, total: int | None = None, *, done: int = 0, said: bool = True) -> Iterator[Bar]:
        """A bar over ``total`` of something, back and forth if that is not known, while this lasts.

        Args:
            text: what is going on.
            total: how much there is to do.
            done: how much of it is done.
            said: whether a line says so where nothing moves.
        """
        _in_use.append(self)
        try:
            if self.moving:
                with self._moving(text, total, done) as bar:
                    yield bar
            else:
                if said:
                    say(self.console, f"{text} ...")
                yield Bar()
        finally:
            _in_use.pop()

    @contextmanager
    def _moving(self, text: str, total: int | None, done: int) -> Iterator[Bar]:
        first = self._progress is None
        progress = self._progress = self._progress or self._begun()
        place = progress.add_task(visible(text), total=total, completed=done)
        try:
            yield Bar(progress, place)
        finally:
            progress.remove_task(place)
            if first:
                self._progress = None
                progress.stop()

    def _begun(self) -> Progress:
        # The text takes several lines where the terminal is narrow.
        text = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
        bar = BarColumn(bar_width=BAR, table_column=Column(min_width=BAR))
        progress = Progress(
            text, bar, _Share(), TimeRemainingColumn(compact=True), console=self.console, transient=True
        )
        progress.start()
        return progress


_in_use: list[Bars] = []


def bars_in_use() -> Bars:
    """Those on which something is shown just now; where there are none, others on the standard error."""
    return _in_use[-1] if _in_use else Bars(Console(stderr=True))
