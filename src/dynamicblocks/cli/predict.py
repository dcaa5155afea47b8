"""``dynamicblocks predict``."""

import os
from argparse import Namespace
from pathlib import Path

from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.sample import times_of
from dynamicblocks.errors import ConfigurationError, StorageError, UsageError

USAGE = "dynamicblocks predict RUN FILE... [--output PLACE] [--resize] [--batch_size N] [--device DEVICE] ..."
DESCRIPTION = """Say what a trained network sees in files; the data of the training are not needed.

Images: a table of classes, and with --output FILE.csv or FILE.json the probabilities of all of them. Masks: PNG files
of class indices in the folder --output. Fields (.npz files with the key inputs): .npz files there, with the key
predictions. Series (.csv, .parquet): with --output FILE.csv a table of what is told at their times, or at --times.
A folder among the files stands for those in it that can be read.

Example: dynamicblocks predict runs/MINE photo.png another.jpg
         dynamicblocks predict runs/MINE photos --resize --output photos.csv"""


def add_arguments(parser: Arguments) -> None:
    """The run, the files, and where to write."""
    parser.add_argument("run", type=str, help="the folder of a run")
    parser.add_argument("files", type=str, nargs="+", metavar="FILE", help="files, or folders of files")
    parser.add_argument("--output", metavar="PLACE", help="a new file, or a new folder of masks or fields")
    parser.add_argument("--force", action="store_true", help="write over what is there")
    parser.add_argument(
        "--resize", action="store_true", help="make images of another size fit: resized, and cut at both ends"
    )
    parser.add_argument("--batch_size", type=int, metavar="N", help="files at a time; as in evaluation", check=_count)
    parser.add_argument("--times", metavar="BEGIN:END:NUMBER", help="of series: times to tell; by default their own")
    parser.add_argument("--samples", type=int, metavar="N", help="of series: draws, whose spread is told", check=_count)
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--data_dir", metavar="FOLDER", help="local copy of the data, for runs of earlier versions")
    parser.add_argument("--quiet", action="store_true", help="print errors alone, where --output says where to write")
    parser.add_argument(
        "--task",
        help="FILE.py:Name, where the run was trained with such a task: where its file lies is not recorded",
    )


def _count(number: int) -> int:
    # As check_count of dynamicblocks.times says it, for which torch is imported.
    if number < 1:
        raise ConfigurationError(f"it must be a whole number of at least 1, got {number}")
    return number


def run(options: Namespace) -> None:
    """Check what can be checked, predict everything, then write and show it."""
    place = None if options.output is None else Path(options.output)
    times = times_of(options.times)
    _check(options, place)
    # What takes seconds to import comes after the checks.
    from dynamicblocks.cli.console import Bars, make_console
    from dynamicblocks.cli.loading import read
    from dynamicblocks.cli.predicted import check_place, inputs_of, named_device, predict_files

    bars = Bars(make_console(options))
    one = read(options, options.run, bars, named_device(options.device))
    check_place(one, place)
    options.times = times
    predict_files(one, inputs_of(one, options.files), options, place, bars)


def _check(options: Namespace, place: Path | None) -> None:
    """Raise for what can be known before anything is read.

    Raises:
        StorageError: the run or a file is not there.
        ConfigurationError: the output is there already.
    """
    # These of os.path give False where those of pathlib raise, as of names that are too long.
    if not os.path.isdir(options.run):  # noqa: PTH112
        raise StorageError(f"there is no run folder {options.run}")
    for file in options.files:
        if not os.path.isfile(file) and not os.path.isdir(file):  # noqa: PTH112, PTH113
            there = os.path.lexists(file)
            raise StorageError(f"{file} is no file" if there else f"there is no file {file}")
    if place is None:
        for flag in ("force", "quiet"):
            if getattr(options, flag):
                raise UsageError(f"--{flag} does nothing without --output")
        return
    if not os.path.isdir(place.absolute().parent):  # noqa: PTH112
        raise StorageError(f"there is no folder {place.parent} in which --output {place.name} could be")
    try:
        place.lstat()
        empty = place.is_dir() and not any(place.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"--output {place} cannot be written: {error.strerror}") from error
    if not empty and not options.force:
        raise ConfigurationError(f"--output {place} exists already; choose another, or add --force to write over it")
    if not place.is_dir() and not place.is_file():
        raise ConfigurationError(f"--output {place} is neither a file nor a folder; choose another")
