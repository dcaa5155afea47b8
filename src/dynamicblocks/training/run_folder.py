"""The folder of a run: what made it, how it went, and what came out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.options.bounded_yaml import read_yaml
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.storage import (
    FORMAT,
    check_finite,
    read_tensors,
    read_tree,
    write_tensors,
    write_text,
    write_tree,
)


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
    ======================  ==================================================================
    """

    path: Path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> "RunFolder":
        """Make the folder and write what made it.

        Raises:
            ConfigurationError: the folder holds something already.
        """
        cls.check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        write_text(folder.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        # Last, for its presence says that the folder is whole.
        write_text(folder.path / "run.json", json.dumps({"format": FORMAT, **record}, indent=2) + "\n")
        return folder

    @staticmethod
    def check_free(path: Path) -> None:
        """Raise if there is something at ``path`` that a new run would overwrite."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigurationError(
                f"{path} exists already; choose another --run, or continue it with --resume {path}"
            )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run folder.

        Raises:
            StorageError: it is missing, damaged, no run folder, or of another version.
        """
        folder = cls(path)
        if not path.is_dir():
            raise StorageError(f"there is no run folder {path}")
        record = folder._json("run.json")
        if record.get("format") != FORMAT:
            raise StorageError(
                f"{path} has format {record.get('format')} (written by dynamicblocks "
                f"{record.get('versions', {}).get('dynamicblocks', 'unknown')}), this version reads format {FORMAT}"
            )
        return folder

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StorageError(f"{self.path} is not a whole run folder: {name} is missing") from error
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.path / name} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise StorageError(f"{self.path / name} must hold an object, got {type(content).__name__}")
        return content

    def record(self) -> dict[str, Any]:
        """What run.json says."""
        return self._json("run.json")

    def configuration(self) -> Path:
        """The file of the resolved configuration."""
        path = self.path / "config.yaml"
        if not path.is_file():
            raise StorageError(f"{self.path} is not a whole run folder: config.yaml is missing")
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

    def append(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add a line to a .jsonl file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one that a crash cut short is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = []
        for number, line in enumerate(lines):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                if number < len(lines) - 1:
                    raise StorageError(f"{path}, line {number + 1}, is no JSON: {error}") from error
        return entries

    def forget_epochs(self, first: int) -> None:
        """Drop the metrics of epoch ``first`` and later, which a resumed run will write again."""
        kept = [entry for entry in self.metrics() if entry["epoch"] < first]
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        write_tree(self.path / "checkpoint.safetensors", state)

    def read_checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint."""
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            raise StorageError(f"{self.path} has no checkpoint: the run ended before its first; start it anew")
        return read_tree(path)

    def write_weights(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], form: Mapping[str, Any]) -> None:
        """Replace the best weights, with the configuration that made them and the form of the network now."""
        header = {"config": config, **form}
        write_tensors(self.path / "model.safetensors", weights, header)

    def read_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The best weights, and the form of the network that they belong to."""
        path = self.path / "model.safetensors"
        weights, header = read_tensors(path)
        check_finite(weights, str(path))
        if "discretisation" not in header:
            raise StorageError(f"{path} does not say how its blocks are discretised; train it again")
        return weights, {name: entry for name, entry in header.items() if name != "config"}

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result."""
        write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")
