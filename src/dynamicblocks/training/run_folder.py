"""The folder of a run: what made it, how it went, and what came out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from dynamicblocks.bounded_json import LARGEST, as_object, parsed, read_bytes, read_object, written
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.options.bounded_yaml import read_yaml
from dynamicblocks.training.appearing import appearing, check_place
from dynamicblocks.training.config import HardwareConfig, TrainConfig
from dynamicblocks.training.disk import append, remove_parts, writing
from dynamicblocks.training.lock import Lock
from dynamicblocks.training.run_checks import Expected, check_position, check_same, tensors_in
from dynamicblocks.training.storage import (
    FORMAT,
    READ,
    Told,
    check_finite,
    log,
    read_tensors,
    read_tree,
    write_json,
    write_tensors,
    write_text,
    write_tree,
)

# Bytes of metrics.jsonl: an epoch takes some hundreds.
LARGEST_METRICS = 8 * LARGEST


@dataclass(frozen=True)
class RunFolder:
    """Names and formats of the files of a run.

    ======================  ==================================================================
    run.json                format, versions, hardware, number of weights, note on the data
    config.yaml             the resolved configuration, as ``--config`` reads it
    metrics.jsonl           one line an epoch
    checkpoint.safetensors  the newest state of weights, optimiser and random numbers
    model.safetensors       the weights of the epoch that is kept: the best on the validation samples, or the last
    result.json             the figures on the test samples and other manifestations, at the end
    events.jsonl            what else happened, such as a fall-back to float32
    evaluations.jsonl       one line for each later evaluation
    lock                    while it trains, the host and the process that do
    ======================  ==================================================================
    """

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        record: Mapping[str, Any],
        fill: Callable[["RunFolder"], object] = lambda _: None,
        lock: Lock | None = None,
    ) -> "RunFolder":
        """Make the folder, which appears whole or not at all, with what made it and what ``fill`` writes into it.

        Args:
            path: where.
            config: the whole configuration.
            record: for run.json.
            fill: is given the folder before it appears.
            lock: holds the folder from its first moment on; by default nobody does.

        Raises:
            ConfigurationError: the folder holds something already.
            StorageError: it cannot be written; then nothing of it is there.
        """
        cls.check_free(path)
        mine = lock or Lock()
        with appearing(path, mine) as part:
            folder = cls(part)
            write_text(folder.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
            write_json(folder.path / "run.json", {"format": FORMAT, **record})
            fill(folder)
        if lock is None:
            mine.release()
        return cls(path)

    @staticmethod
    def check_free(path: Path, flag: str = "--run") -> None:
        """Raise if a new run cannot be written at ``path``; ``flag`` is the one that named it.

        Raises:
            ConfigurationError: there is something that it would overwrite.
            StorageError: no folder can be made there.
        """
        with writing(path, "made"):
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if taken:
            again = f", or continue it with --resume {path}" if flag == "--run" and path.is_dir() else ""
            raise ConfigurationError(f"{path} exists already; choose another {flag}{again}")
        check_place(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            StorageError: it is missing, damaged, no run folder, or of another version.
            ConfigurationError: it holds a run for each of several seeds.
        """
        folder = cls(path)
        try:
            there = path.is_dir()
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        if not there:
            raise StorageError(f"there is no run folder {path}")
        seeds = sorted(each.name for each in path.glob("seed-*/"))
        if seeds and not (path / "run.json").exists():
            raise ConfigurationError(f"{path} is a folder of seeds; give one of them, such as {path / seeds[0]}")
        record = folder.record()
        if record.get("format") not in READ:
            raise StorageError(
                f"{path} has format {record.get('format')!r:.40} (written by dynamicblocks "
                f"{record.get('versions', {}).get('dynamicblocks', 'unknown')}), this version reads format "
                f"{' and '.join(map(str, READ))}"
            )
        return folder

    def record(self) -> dict[str, Any]:
        """What run.json says."""
        path = self._there("run.json")
        record = read_object(path)
        for part in ("versions", "hardware"):
            as_object(record.get(part, {}), f"{path}, {part},")
        return record

    def configuration(self) -> Path:
        """The file of the resolved configuration."""
        return self._there("config.yaml")

    def _there(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            raise StorageError(f"{self.path} is not a whole run folder: {name} is missing")
        return path

    def hardware(self) -> HardwareConfig:
        """The hardware's part of the configuration, as it was settled at the start.

        Raises:
            StorageError: it cannot be read.
        """
        path = self.configuration()
        try:
            return HardwareConfig(**read_yaml(path)["hardware"])
        except (TypeError, KeyError, ValueError) as error:
            raise StorageError(f"{path} does not say on what hardware the run was: {error}") from error

    def append(self, name: str, *entries: Mapping[str, Any]) -> None:
        """Add lines to a .jsonl file: all of them, or nothing."""
        path = self.path / name
        append(path, "".join(written(entry, str(path)) + "\n" for entry in entries).encode("utf-8"))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one that a crash cut short is left out.

        Raises:
            StorageError: another line is damaged; the message names it.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        *lines, rest = read_bytes(path, LARGEST_METRICS).split(b"\n")
        entries = []
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number},"
            entry = as_object(parsed(line, where, "an epoch", infinite=True), where)
            epoch, seconds = entry.get("epoch"), entry.get("seconds", 0.0)
            if type(epoch) is not int or epoch < 0 or type(seconds) not in (int, float):
                raise StorageError(
                    f"{where} does not say which epoch it is of and how long that took, got {epoch!r:.40} and "
                    f"{seconds!r:.40}"
                )
            entries.append(entry)
        try:  # of earlier versions, which may have ended behind the last line and before its end
            return [*entries, as_object(parsed(rest, "", infinite=True), "")] if rest else entries
        except StorageError:
            return entries

    def forget_epochs(self, first: int) -> list[int]:
        """Drop the metrics of epoch ``first`` and later, which a resumed run will write again; those that are missing.

        Without damage none is: an epoch is written down before the checkpoint behind it.
        """
        path, entries = self.path / "metrics.jsonl", self.metrics()
        kept = [entry for entry in entries if entry["epoch"] < first]
        text = "".join(written(entry, str(path)) + "\n" for entry in kept)
        if path.exists() and path.read_bytes() != text.encode("utf-8"):
            write_text(path, text)
        return sorted(set(range(first)) - {entry["epoch"] for entry in kept})

    def remove_parts(self) -> None:
        """Remove what a killed process had begun to write."""
        remove_parts(self.path)

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        write_tree(self.path / "checkpoint.safetensors", state)

    def read_checkpoint(self, expected: Expected | None = None, told: Told = log) -> dict[str, Any]:
        """The newest checkpoint.

        Args:
            expected: what it is to be of, if that is to be checked.
            told: hears of a file without a checksum.

        Raises:
            StorageError: there is none, or it is damaged, or of another configuration.
        """
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            raise StorageError(f"{self.path} has no checkpoint: the run ended before its first; start it anew")
        stored = read_tree(path, told)
        check_finite(dict(tensors_in(stored)), path)
        if expected is not None and "config" in stored:  # those of earlier versions do not say
            check_same(expected, stored["config"], path, self.configuration())
        return stored

    def write_weights(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], form: Mapping[str, Any]) -> None:
        """Replace the best weights, with the configuration that made them and the form of the network now."""
        header = {"config": config, **form}
        write_tensors(self.path / "model.safetensors", weights, header)

    def read_weights(
        self, expected: Expected | None = None, told: Told = log
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The best weights, and the form of the network that they belong to; arguments as in :meth:`read_checkpoint`.

        Raises:
            StorageError: there are none, or they are damaged, or of another configuration.
        """
        path = self.path / "model.safetensors"
        weights, content = read_tensors(path, told)
        check_finite(weights, path)
        form = as_object(content, f"the content of {path}")
        config = form.pop("config", None)
        if "discretisation" not in form:
            raise StorageError(f"{path} does not say how its blocks are discretised; train it again")
        # The version that knew one task had its options elsewhere.
        of_before = isinstance(config, dict) and "task" not in config
        if expected is not None and not of_before:
            check_same(expected, config, path, self.configuration())
        return weights, form

    def lacking(self, error: Exception) -> StorageError:
        """The error for a checkpoint without something that belongs to it."""
        return StorageError(
            f"the checkpoint in {self.path} is damaged: it has no {error}, so it does not fit its configuration"
        )

    def finished(self, expected: Expected, config: TrainConfig, told: Told = log) -> dict[str, Any] | None:
        """The result of a run that is through; None of one that is not. Arguments as in :meth:`read_checkpoint`.

        Raises:
            StorageError: a file is damaged, or of another configuration.
        """
        path = self.path / "result.json"
        if not path.exists():
            return None
        result, stored = read_object(path, infinite=True), self.read_checkpoint(expected, told)
        try:
            check_position(stored["position"], config.epochs)
        except (KeyError, TypeError) as error:
            raise self.lacking(error) from error
        if config.max_steps is None and stored["position"]["epoch"] != config.epochs:
            return None
        self.read_weights(expected, told)  # a run whose network is lost is not through
        return result

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result."""
        write_json(self.path / "result.json", result)
