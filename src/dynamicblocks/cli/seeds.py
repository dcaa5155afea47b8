"""``dynamicblocks train --seeds``: a run for each of several seeds, in one folder, and what they came to together."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from rich.console import Console

from dynamicblocks.bounded_json import read_object
from dynamicblocks.cli.console import say
from dynamicblocks.cli.runs import SEED, flat, shown
from dynamicblocks.cli.table import table
from dynamicblocks.errors import ConfigurationError, SolverError, StorageError, UsageError
from dynamicblocks.interruption import Interrupted
from dynamicblocks.options.bounded_yaml import read_yaml
from dynamicblocks.tasks import load_config
from dynamicblocks.training import Figure, Task, TrainConfig
from dynamicblocks.training.appearing import appearing
from dynamicblocks.training.lock import Lock
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import recorded, run_name, run_path
from dynamicblocks.training.storage import write_json, write_text

NAMED = "seeds.json"
# What does not make two trainings different ones.
OF_ONE = ("seed", "run", "output")


@dataclass(frozen=True)
class SeedFolder:
    """A folder with a run for each of several seeds: ``seed-0``, ``seed-1``, ...

    ===========  ====================================================
    seeds.json   the seeds
    config.yaml  the configuration that they share
    result.json  each figure by seed, its mean, its standard deviation
    ===========  ====================================================
    """

    path: Path

    @classmethod
    def begun(cls, task: Task[Any], config: TrainConfig, seeds: Sequence[int]) -> "SeedFolder":
        """A new folder, or the one of the same command; seeds that it did not have are added to it.

        Raises:
            ConfigurationError: there is something else at its place.
            StorageError: it cannot be made.
        """
        if config.hardware.devices > 1:
            raise ConfigurationError("--seeds is for one process; with several, train seed by seed with --seed")
        for seed in seeds:
            replace(config, seed=seed)  # which says what is no seed
        name = run_name(task, config)
        folder = cls(run_path(config.output, name))
        shared = recorded(task, replace(config, run=name))
        if cls.is_one(folder.path):
            folder._check_same(shared)
            folder._write_seeds([*folder.seeds(), *(seed for seed in seeds if seed not in folder.seeds())])
            return folder
        RunFolder.check_free(folder.path)
        lock = Lock()
        with appearing(folder.path, lock) as part:
            write_text(part / "config.yaml", yaml.safe_dump(shared, sort_keys=False))
            cls(part)._write_seeds(seeds)
        lock.release()
        return folder

    @staticmethod
    def is_one(path: Path) -> bool:
        """Whether there is such a folder."""
        return (path / NAMED).is_file()

    def configured(self, own: type[Task[Any]] | None) -> tuple[Task[Any], TrainConfig]:
        """The task and the configuration that the runs share, but for the seed and where they lie."""
        return load_config(self.path / "config.yaml", own)

    def seeds(self) -> list[int]:
        """The seeds.

        Raises:
            StorageError: the file that names them is damaged.
        """
        found = read_object(self.path / NAMED).get("seeds")
        if not isinstance(found, list) or not found or not all(type(each) is int and each >= 0 for each in found):
            raise StorageError(f"{self.path / NAMED} names no seeds: {found!r:.80}")
        return found

    def run(self, seed: int) -> Path:
        """The folder of the run of a seed."""
        return self.path / f"{SEED}{seed}"

    def result(self, seed: int) -> dict[str, Any] | None:
        """What the run of a seed came to; None if it is not finished."""
        path = self.run(seed) / "result.json"
        return read_object(path) if path.exists() else None

    def write_result(self, results: Mapping[int, Mapping[str, Any]], unit: str) -> dict[str, Any]:
        """Write, and return, what the runs came to together; of a figure that is no number in one, those that are."""
        names = dict.fromkeys(
            name
            for result in results.values()
            for name, value in result.items()
            if name.startswith(("test_", "validation_")) and name != f"test_{unit}" and isinstance(value, float)
        )
        figures = {}
        for name in names:
            values = [value if isinstance(value := each.get(name), float) else None for each in results.values()]
            numbers = [value for value in values if value is not None]
            spread = stdev(numbers) if len(numbers) > 1 else None
            figures[name] = {"mean": mean(numbers), "standard_deviation": spread, "values": values}
        first = next(iter(results.values()))
        found = {"seeds": list(results), "figures": figures, "weights": first.get("weights")}
        write_json(self.path / "result.json", found)
        return found

    def _write_seeds(self, seeds: Sequence[int]) -> None:
        write_text(self.path / NAMED, json.dumps({"seeds": list(seeds)}) + "\n")

    def _check_same(self, shared: Mapping[str, Any]) -> None:
        stored = flat(read_yaml(self.path / "config.yaml"))
        asked = flat(json.loads(json.dumps(shared)))
        for name in dict.fromkeys([*stored, *asked]):
            if name not in OF_ONE and stored.get(name) != asked.get(name):
                raise ConfigurationError(
                    f"{self.path} exists already with {name} {stored.get(name)}, not {asked.get(name)}; choose another "
                    f"--run, or go on with --resume {shlex.quote(str(self.path))}"
                )


def seeds_of(texts: Sequence[str], others: Mapping[str, Any]) -> tuple[int, ...]:
    """The seeds behind --seeds.

    Raises:
        UsageError: they are no seeds, or one of them comes twice.
        ConfigurationError: another flag says something else.
    """
    written = [text for each in texts for text in each.strip("[]").replace(",", " ").split()]
    if not written or not all(text.isdecimal() and text.isascii() and len(text) < 20 for text in written):
        raise UsageError(
            f"--seeds expects whole numbers of at least 0 such as 0 1 2, got {' '.join(texts) or 'nothing'!s:.80}"
        )
    seeds = tuple(map(int, written))
    twice = next((seed for place, seed in enumerate(seeds) if seed in seeds[:place]), None)
    if twice is not None:
        raise UsageError(f"--seeds names {twice} twice")
    if "seed" in others:
        raise ConfigurationError("--seeds and --seed both say with which seeds to train; give one of them")
    if others.get("resume") is not None:
        raise ConfigurationError(
            "--resume goes on with the seeds that its folder names; leave out --seeds, or add some by the command that "
            "made the folder"
        )
    return seeds


def train_seeds(
    folder: SeedFolder,
    task: Task[Any],
    config: TrainConfig,
    train: Callable[[Task[Any], TrainConfig, Path | None], object],
    console: Console,
    again: str = "",
) -> None:
    """Train with each of the seeds that is not through, one after the other, and show what all came to.

    Args:
        folder: where.
        task: what to train on what.
        config: how, but for the seed.
        train: trains to the end: anew, or the run in a folder.
        console: where to write.
        again: flags of a command that goes on with this one.

    Raises:
        Interrupted: a signal asked to end.
        SolverError: the numbers of a run were not finite.
    """
    # Where the folder lies now, wherever it was made.
    one = replace(config, output=str(folder.path.parent))
    failed: dict[int, SolverError] = {}
    seeds = folder.seeds()
    for place, seed in enumerate(seeds, start=1):
        path = folder.run(seed)
        if folder.result(seed) is not None:
            say(console, f"Seed {seed} ({place} of {len(seeds)}) is finished: {path}")
            continue
        say(console, f"\nSeed {seed} ({place} of {len(seeds)})", style="bold")
        begun = (path / "run.json").exists()
        try:
            train(task, replace(one, seed=seed, run=f"{folder.path.name}/{path.name}"), path if begun else None)
        except Interrupted as interrupted:
            command = f"dynamicblocks train --resume {shlex.quote(str(folder.path))}{again}"
            raise Interrupted(
                interrupted.signal, f"interrupted in seed {seed}, {place} of {len(seeds)}. Go on with: {command}"
            ) from None
        except SolverError as error:
            say(console, f"Seed {seed} failed: {error}", style="bold red")
            failed[seed] = error
    results = {seed: result for seed in seeds if (result := folder.result(seed)) is not None}
    if results:
        found = folder.write_result(results, task.unit)
        say(console, f"\n{_table(folder, found, task)}\n\nWritten to {folder.path / 'result.json'}")
    if failed:
        raise SolverError(
            f"{len(failed)} of {len(seeds)} seeds came to no result: "
            + "; ".join(f"seed {seed}: {error}" for seed, error in failed.items())
        )


def _table(folder: SeedFolder, found: Mapping[str, Any], task: Task[Any]) -> str:
    columns: list[tuple[str, str, Figure]] = [
        (f"{split}_{figure.name}", f"{split} {figure.heading}", figure)
        for split in ("test", "validation")
        for figure in task.figures
        if f"{split}_{figure.name}" in found["figures"]
    ]
    figures = [(found["figures"][name], figure.form) for name, _, figure in columns]
    rows = [
        [str(seed), *(_cell(figure["values"][place], form) for figure, form in figures)]
        for place, seed in enumerate(found["seeds"])
    ]
    rows.append(["mean", *(_cell(figure["mean"], form) for figure, form in figures)])
    if len(found["seeds"]) > 1:
        rows.append(["standard deviation", *(_cell(figure["standard_deviation"], form) for figure, form in figures)])
    return table(f"{folder.path}, by seed", ["seed", *(heading for _, heading, _ in columns)], rows, text=1)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else shown(value, form)
