"""``dynamicblocks runs``: read from the small files of runs alone, without torch."""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from textwrap import wrap
from typing import Any

from dynamicblocks.bounded_json import as_object, parsed, read_end, read_object
from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.table import table, terminal_width
from dynamicblocks.errors import DynamicBlocksError, StorageError
from dynamicblocks.options.bounded_yaml import read_yaml
from dynamicblocks.visible import columns, visible

USAGE = "dynamicblocks runs [DIR] [--json]"
DESCRIPTION = """List the runs in a folder with their figures, and those of their options that differ.

A run that is not finished says where it stands. Runs of several seeds (dynamicblocks train --seeds) are listed
together, with the mean of each figure and its standard deviation. A folder that cannot be read is named.

Example: dynamicblocks runs
         dynamicblocks runs experiments/july --json"""

USUAL = "runs"
FILES = ("run.json", "config.yaml", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "result.json")
SEED = "seed-"
# Options that say where a run lies and not what it is.
PLACES = ("output", "run")
# Folders of runs in folders of runs.
DEEPEST = 3
# Bytes of metrics.jsonl in which the last line stands.
END = 1_600_000
# Lines get no narrower than this.
NARROW = 30
# Stands for a space at which no line ends: wrap knows it for no space.
UNBROKEN = "\0"
# How the main figure of a task is written, for runs that do not say it themselves.
HEADLINES: Mapping[str, tuple[str, str]] = {
    "classify": ("accuracy", ".2%"),
    "segment": ("mean_iou", ".2%"),
    "regress": ("relative_error", ".3%"),
}
UNKNOWN = ("loss", ".4g")


@dataclass(frozen=True)
class Listed:
    """What the files of a run say of it.

    Args:
        path: of its folder.
        problem: why it cannot be read; nothing if it can.
        finished: whether it has a result.
        done, epochs: how many epochs there were, and will have been.
        figures: on the test samples, or of an unfinished run on the validation samples.
        headline: the main figure's name, and how it is printed.
        weights: how many there are.
        started: when.
        options: by path.
    """

    path: Path
    problem: str = ""
    finished: bool = False
    done: int = 0
    epochs: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    headline: tuple[str, str] = UNKNOWN
    weights: int | None = None
    started: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Finished, or where it stands."""
        return "damaged" if self.problem else "finished" if self.finished else f"epoch {self.done} of {self.epochs}"

    @property
    def heading(self) -> str:
        """What the main figure is called in text."""
        return self.headline[0].replace("_", " ")

    def shown(self, split: str) -> str:
        """The main figure on a split as it is printed; nothing where there is none."""
        value = self.figures.get(f"{split}_{self.headline[0]}")
        return "" if value is None else shown(value, self.headline[1])


def add_arguments(parser: Arguments) -> None:
    """Where to look."""
    parser.add_argument("dir", nargs="?", default=USUAL, metavar="DIR", help="a folder of runs")
    parser.add_argument("--json", action="store_true", help="print all that is known of each run as JSON")


def run(options: Namespace) -> None:
    """List them."""
    folder = Path(options.dir)
    if not folder.is_dir():
        raise StorageError(f"there is no folder {folder}")
    found = [listed(path) for path in runs_in(folder)]
    if options.json:
        print(json.dumps([_as_json(each) for each in found], indent=2, allow_nan=False))
        return
    readable = [each for each in found if not each.problem]
    if readable:
        # The number of epochs has a column of its own.
        differing = [name for name in differences([each.options for each in readable]) if name != "epochs"]
        print(_table(folder, readable, differing))
    elif not found:
        print(f"There are no runs in {visible(str(folder))}.")
    for each in found:
        if each.problem:
            print(f"damaged: {visible(each.problem)}")


def runs_in(folder: Path, depth: int = 0) -> Iterator[Path]:
    """The folders of runs in a folder, which may be one itself, in the order of their names."""
    if any((folder / name).is_file() for name in FILES) and not is_of_seeds(folder):
        yield folder
    elif depth <= DEEPEST:
        try:
            inner = [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
        except OSError:
            return
        for each in sorted(inner, key=lambda path: _natural(path.name)):
            yield from runs_in(each, depth + 1)


def is_of_seeds(folder: Path) -> bool:
    """Whether a folder holds a run for each of several seeds."""
    return (folder / "seeds.json").is_file() or next(folder.glob(f"{SEED}*/"), None) is not None


def listed(path: Path) -> Listed:
    """What the files of a run say; of one that cannot be read what is wrong."""
    try:
        return _listed(path)
    except (DynamicBlocksError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        said = str(error) if isinstance(error, DynamicBlocksError) else f"{path}: {type(error).__name__}: {error}"
        return Listed(path, problem=said if str(path) in said else f"{path}: {said}")


def _listed(path: Path) -> Listed:
    record, options = read_object(path / "run.json"), flat(read_yaml(path / "config.yaml"))
    result = read_object(path / "result.json", infinite=True) if (path / "result.json").exists() else None
    epochs, newest = _newest(path / "metrics.jsonl")
    figures = _figures(newest if result is None else result)
    if not isinstance(record.get("versions"), Mapping):
        raise StorageError(f"{path / 'run.json'} is of no run")
    if type(options.get("epochs")) is not int:
        raise StorageError(f"{path / 'config.yaml'} does not say for how many epochs")
    counts = (record.get("weights"), (result or {}).get("weights"))
    return Listed(
        path,
        finished=result is not None,
        done=epochs,
        epochs=options.get("epochs"),
        figures={name: value for name, value in figures.items() if name.partition("_")[0] in ("test", "validation")},
        headline=_headline(record, options, figures),
        weights=next((each for each in counts if type(each) is int), None),
        started=f"{record.get('started', '')!s:.40}",
        options={name: value for name, value in options.items() if name not in PLACES},
    )


def _figures(measured: Mapping[str, Any]) -> dict[str, float]:
    """What was measured; what came to nothing is null, or was NaN in files of before."""
    numbers = {name: value for name, value in measured.items() if type(value) in (int, float)}
    return {name: value for name, value in numbers.items() if abs(value) <= sys.float_info.max}


def _headline(record: Mapping[str, Any], options: Mapping[str, Any], figures: Mapping[str, float]) -> tuple[str, str]:
    said = record.get("headline")
    if isinstance(said, Mapping) and isinstance(said.get("name"), str) and isinstance(said.get("form"), str):
        # A form can ask for more digits than any memory holds.
        return said["name"], UNKNOWN[1] if re.search(r"\d{3}", said["form"]) else said["form"]
    # A run of the version that knew one task does not name it.
    name, form = HEADLINES.get(str(options.get("task", "classify")), UNKNOWN)
    return (name, form) if not figures or f"validation_{name}" in figures else UNKNOWN


def _newest(path: Path) -> tuple[int, dict[str, Any]]:
    """How many epochs there were, and what was measured in the last of them; a line that a crash cut short is none."""
    if not path.exists():
        return 0, {}
    for line in reversed(read_end(path, END).split(b"\n")):
        with suppress(StorageError):
            entry = as_object(parsed(line, f"{path}", infinite=True), f"{path}")
            if type(entry.get("epoch")) is int:
                return entry["epoch"] + 1, entry
    return 0, {}


def flat(options: Any, inside: str = "") -> dict[str, Any]:
    """Options by path.

    >>> flat({"epochs": 3, "model": {"name": "resnet20", "widths": [8, 16]}})
    {'epochs': 3, 'model.name': 'resnet20', 'model.widths': [8, 16]}
    """
    if not isinstance(options, Mapping):
        return {inside: options}
    found: dict[str, Any] = {}
    for name, value in options.items():
        found.update(flat(value, f"{inside}.{name}" if inside else str(name)))
    return found


def differences(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options that not all have alike, those that only some have among them.

    >>> differences([{"epochs": 3, "seed": 0}, {"epochs": 3, "seed": 1, "refine": 2}])
    ['seed', 'refine']
    """
    names = dict.fromkeys(name for each in options for name in each)
    return [name for name in names if len({_written(each, name) for each in options}) > 1]


def _written(options: Mapping[str, Any], name: str) -> str:
    """An option as it would be written in a file, - where there is none."""
    if name not in options:
        return "-"
    value = options[name]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _table(folder: Path, found: Sequence[Listed], differing: Sequence[str]) -> str:
    """A line for each run where the terminal is wide enough for all options that differ, else a few lines for each."""
    names = {each.heading for each in found}
    # Where all have the same main figure, it is named once.
    figure = f" {next(iter(names))}" if len(names) == 1 else ""
    rows = []
    for group, members in _grouped(found):
        if group is not None:
            rows.append(_group_row(group, members, folder, differing))
        rows += [_row(each, folder, differing) for each in members]
        if not figure:
            for row in rows[-len(members) - (group is not None) :]:
                row[2:4] = [cell and f"{members[0].heading} {cell}" for cell in row[2:4]]
    head = ["run", "state", f"test{figure}", f"validation{figure}", "weights", "epochs", "started", *differing]
    title, width = f"Runs in {folder}", terminal_width()
    whole = table(title, head, rows, text=2, width=10_000)
    if width is None or max(map(columns, whole.splitlines())) <= width:
        return whole
    return "\n".join([visible(title), *(line for row in rows for line in ("", *_lines(head, row, width)))])


def _lines(head: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    """A run on its own: its name, what it came to, and what differs."""
    name, state, test, validation, weights, epochs, started, *options = map(visible, row)
    yield name
    figures = (f"{heading} {cell}" for heading, cell in zip(head[2:4], (test, validation), strict=True) if cell)
    about = [
        state,
        *figures,
        *([f"{weights} weights"] if weights else []),
        f"{epochs} epoch{'' if epochs == '1' else 's'}",
        started,
    ]
    written = [f"{option} {value}" for option, value in zip(head[7:], options, strict=True) if value not in ("", "-")]
    for part in (about, written):
        # What belongs together stays together.
        text = ", ".join(each.replace(" ", UNBROKEN) for each in part if each)
        for line in wrap(text, max(width, NARROW) - 2, break_long_words=False, break_on_hyphens=False):
            yield f"  {line.replace(UNBROKEN, ' ')}"


def _row(each: Listed, folder: Path, differing: Sequence[str]) -> list[str]:
    return [
        _name(each.path, folder),
        each.state,
        *(each.shown(split) for split in ("test", "validation")),
        "" if each.weights is None else f"{each.weights:,}",
        str(each.epochs),
        each.started,
        *(_written(each.options, name) for name in differing),
    ]


def _group_row(path: Path, members: Sequence[Listed], folder: Path, differing: Sequence[str]) -> list[str]:
    finished = [each for each in members if each.finished]
    figures = []
    for split in ("test", "validation"):
        name, form = members[0].headline
        values = [each.figures[f"{split}_{name}"] for each in finished if f"{split}_{name}" in each.figures]
        figures.append(spread(values, form) if values else "")
    alike = differences([each.options for each in members])
    return [
        _name(path, folder),
        f"{len(finished)} of {len(members)} seeds",
        *figures,
        "",
        str(members[0].epochs),
        "",
        *("" if name in alike else _written(members[0].options, name) for name in differing),
    ]


def spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation of a sample.

    >>> spread([0.5, 0.75], ".1%"), spread([0.5], ".1%")
    ('62.5% ± 17.7%', '50.0%')
    """
    found = shown(mean(values), form)
    return f"{found} ± {shown(stdev(values), form)}" if len(values) > 1 else found


def shown(value: float, form: str) -> str:
    """A figure as text, however a file asks for it."""
    try:
        return format(value, form)
    except ValueError:
        return f"{value:.4g}"


def _grouped(found: Sequence[Listed]) -> Iterator[tuple[Path | None, list[Listed]]]:
    """Runs of several seeds together with their folder, others alone."""
    groups: dict[Path, list[Listed]] = {}
    for each in found:
        of_seeds = each.path.name.startswith(SEED)
        groups.setdefault(each.path.parent if of_seeds else each.path, []).append(each)
    for path, members in groups.items():
        yield (path if members[0].path != path else None), members


def _as_json(each: Listed) -> dict[str, Any]:
    return {
        "run": str(each.path),
        "state": each.state,
        "finished": each.finished,
        "problem": each.problem or None,
        "epochs_done": each.done,
        "epochs": each.epochs,
        "figures": each.figures,
        "headline": each.headline[0],
        "weights": each.weights,
        "started": each.started or None,
        "options": json.loads(json.dumps(each.options, default=str), parse_constant=str),
    }


def _name(path: Path, folder: Path) -> str:
    return str(path) if path == folder else str(path.relative_to(folder))


def _natural(name: str) -> list[tuple[int, str]]:
    """By which names are sorted: seed-2 before seed-10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d{1,9})", name)]
