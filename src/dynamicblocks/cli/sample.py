"""``dynamicblocks sample``."""

import math
import os
from argparse import Namespace
from pathlib import Path

from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.errors import ConfigurationError, StorageError, UsageError

USAGE = "dynamicblocks sample RUN [--number N] [--times BEGIN:END:NUMBER] [--method NAME] [--output FILE] ..."
DESCRIPTION = """Draw new samples from what a run has learnt: new time series from a latent ODE, new points from a flow.

With --output FILE.csv a table is written, with --output FILE.npz an array (key points), and a picture beside it
(FILE.png); with --output FILE.png the picture alone. A flow is solved as in its training, or by --method and --steps or
--tolerance; a context stands beside the points.

Examples: dynamicblocks sample runs/MINE --number 20 --times 0:10:100 --output new.csv
          dynamicblocks sample runs/FLOW --number 1000 --method euler --steps 20 --output new.csv"""

MOST_TIMES = 1_000_000
PICTURE = ".png"
OUTPUTS = (".csv", ".npz", PICTURE)
# Of flags that need one, a method that takes them.
METHODS = {"steps": "euler", "tolerance": "dopri5"}


def add_arguments(parser: Arguments) -> None:
    """The run, how much of what, and where to write."""
    parser.add_argument("run", type=str, help="the folder of a run")
    parser.add_argument("--number", type=int, default=10, metavar="N", help="how many samples", check=_count)
    parser.add_argument("--times", metavar="BEGIN:END:NUMBER", help="times of series; by default those of the training")
    parser.add_argument(
        "--context",
        metavar="NAME|NUMBERS",
        help="of conditional densities: the name of a label, such as label=3, or numbers separated by commas",
    )
    parser.add_argument(
        "--method", metavar="NAME", help="of flows: another one to solve by, such as euler, rk4, dopri5"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of a --method on a grid: its steps", check=_count)
    parser.add_argument("--tolerance", type=float, metavar="X", help="of an adaptive --method: by default 1e-5")
    parser.add_argument("--output", metavar="FILE", help="a new .csv, .npz or .png file")
    parser.add_argument("--force", action="store_true", help="write over what is there")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws", check=_seed)
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--data_dir", metavar="FOLDER", help="local copy of the data, for runs without facts of them")
    parser.add_argument("--quiet", action="store_true", help="print errors alone, where --output says where to write")
    parser.add_argument(
        "--task",
        help="FILE.py:Name, where the run was trained with such a task: where its file lies is not recorded",
    )


def _count(number: int) -> int:
    if number < 1:
        raise ConfigurationError(f"it must be a whole number of at least 1, got {number}")
    return number


def _seed(number: int) -> int:
    if number < 0:
        raise ConfigurationError(f"it must be a whole number of at least 0, got {number}")
    return number


def times_of(text: str | None) -> list[float] | None:
    """Times as they are written: BEGIN:END:NUMBER.

    Raises:
        UsageError: they are not.

    >>> times_of("0:1:3")
    [0.0, 0.5, 1.0]
    """
    if text is None:
        return None
    parts = text.split(":")
    try:
        begin, end, number = float(parts[0]), float(parts[1]), int(parts[2])
        right = len(parts) == 3 and math.isfinite(end - begin) and begin < end and 2 <= number <= MOST_TIMES
    except (ValueError, IndexError):
        right = False
    if not right:
        raise UsageError(
            f"--times expects BEGIN:END:NUMBER with BEGIN below END and NUMBER at least 2, such as 0:10:100, got "
            f"{text!r:.80}"
        )
    return [begin + (end - begin) * place / (number - 1) for place in range(number)]


def run(options: Namespace) -> None:
    """Check what can be checked, draw, then write and show."""
    place = None if options.output is None else Path(options.output)
    times = times_of(options.times)
    _check(options, place)
    # What takes seconds to import comes after the checks.
    from dynamicblocks.cli.console import Bars, make_console, say
    from dynamicblocks.cli.loading import read
    from dynamicblocks.cli.predicted import named_device, summary
    from dynamicblocks.cli.sampled import asked_of_flow, write_samples
    from dynamicblocks.cli.table import table

    bars = Bars(make_console(options))
    one = read(options, options.run, bars, named_device(options.device))
    asked = asked_of_flow(options, one.task)
    samples = one.sample(options.number, times=times, seed=options.seed, **asked)
    if place is None:
        say(bars.console, table(str(one.folder.path), ("size", "what is in it"), [summary(samples)], prose=True))
        return
    picture = _picture(place)
    if picture != place:
        write_samples(samples, place, one.task, asked.get("context"))
        say(bars.console, f"{options.number:,} samples written to {place}")
    if one.task.draw_samples(samples, picture):
        say(bars.console, f"Drawn: {picture}")
    elif picture == place:
        raise ConfigurationError(f"samples of the task {one.task.name} are not drawn; name a .csv file")


def _picture(place: Path) -> Path:
    """Where the picture is written: beside a table or arrays, or alone."""
    return place if place.suffix.lower() == PICTURE else place.with_suffix(PICTURE)


def _check(options: Namespace, place: Path | None) -> None:
    """Raise for what can be known before anything is read.

    Raises:
        StorageError: the run is not there.
        ConfigurationError: the output is there already.
    """
    # These of os.path give False where those of pathlib raise, as of names that are too long.
    if not os.path.isdir(options.run):  # noqa: PTH112
        raise StorageError(f"there is no run folder {options.run}")
    if options.method is None:
        for flag in ("steps", "tolerance"):
            if getattr(options, flag) is not None:
                raise UsageError(f"--{flag} is of --method: say which, such as --method {METHODS[flag]}")
    if place is None:
        for flag in ("force", "quiet"):
            if getattr(options, flag):
                raise UsageError(f"--{flag} does nothing without --output")
        return
    if place.suffix.lower() not in OUTPUTS:
        raise UsageError(f"--output of samples must be a {', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]} file, got {place}")
    if not os.path.isdir(place.absolute().parent):  # noqa: PTH112
        raise StorageError(f"there is no folder {place.parent} in which --output {place.name} could be")
    for each in dict.fromkeys((place, _picture(place))):
        if os.path.isdir(each):  # noqa: PTH112
            raise ConfigurationError(f"{each} is a folder; choose another --output")
        if os.path.lexists(each) and not options.force:
            raise ConfigurationError(f"{each} exists already; choose another --output, or add --force to write over it")
