"""Configurations and runs, read from their files."""

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import nn

from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.structure import with_structure
from dynamicblocks.tasks.own import task_of_run
from dynamicblocks.tasks.parsing import add_task_arguments, task_and_config
from dynamicblocks.tasks.plain_options import check_written, options_of
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task
from dynamicblocks.training.train import build

# Of a file that names no task: there was one when it was written.
DEFAULT = "classify"


@dataclass(frozen=True)
class LoadedRun:
    """A run that was read: its folder, what it was of, and the network with the weights that were kept."""

    folder: RunFolder
    task: Task[Any]
    config: TrainConfig
    net: nn.Module


def load_config(path: Path, own: type[Task[Any]] | None = None) -> tuple[Task[Any], TrainConfig]:
    """Read a configuration file.

    Refinements after the end are left out: earlier versions wrote them down, and none was made.

    Args:
        path: of the file.
        own: the class of a task that is not among those of the package.

    Raises:
        StorageError: it cannot be read, or holds an unknown key or a value of the wrong type.
        ConfigurationError: it is of a task of its own, which is not given.
    """
    reference, written = read_options(path)
    kind = task_of_run(DEFAULT if reference is None else reference, own, path)
    parser = ArgumentParser(exit_on_error=False)
    add_task_arguments(parser, kind)
    try:
        check_written(written, {**options_of(kind), **options_of(TrainConfig)})
        options = parser.parse_object(written)
        options.refine.epochs = tuple(epoch for epoch in options.refine.epochs if epoch < options.epochs)
        return task_and_config(kind, parser.instantiate(options))
    except (ArgumentError, TypeError, OSError, ValueError) as error:
        raise StorageError(f"{path} is no configuration of this version: {error}") from error


def read_options(path: Path) -> tuple[Any, dict[str, Any]]:
    """How a file names its task, None where it does not, and all other options in it, as this version writes them.

    Raises:
        StorageError: it cannot be read, or holds no options.
    """
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StorageError(f"{path} is no configuration of this version: {error}") from error
    if not isinstance(written, dict):
        raise StorageError(f"{path} must hold a mapping of options, got {type(written).__name__}")
    options = of_this_version(written)
    del options["task"]
    return written.get("task"), options


def of_this_version(written: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as this version writes it.

    One without a task is of the version that knew one: it wrote every option of every model, where null meant that it
    was not given, and had label smoothing among the options of optimisers, reading processes among those of data.
    """
    flat = {key: dict(value) if isinstance(value, Mapping) else value for key, value in written.items()}
    if "task" in flat:
        return flat
    flat["task"] = DEFAULT
    if "label_smoothing" in flat.get("optimizer", {}):
        flat["label_smoothing"] = flat["optimizer"].pop("label_smoothing")
    if "workers" in flat.get("data", {}):
        flat.setdefault("hardware", {})["workers"] = flat["data"].pop("workers")
    if "model" in flat:
        flat["model"] = {name: value for name, value in flat["model"].items() if value is not None}
    return flat


def load_run(path: Path, *, data_dir: str | None = None, own: type[Task[Any]] | None = None) -> LoadedRun:
    """A run, its task and its best network; the data may lie elsewhere now.

    Raises:
        StorageError: a file is missing, damaged, of another version, or does not fit the others.
        ConfigurationError: it is of a task of its own, which is not given.
    """
    folder = RunFolder.open(path)
    task, config = load_config(folder.configuration(), own)
    if data_dir is not None:
        task = with_data_dir(task, data_dir)
    weights, described = folder.read_weights()
    task.load()
    try:
        net = with_structure(build(task, config), described)
        net.load_state_dict(weights)
    except (RuntimeError, ConfigurationError, KeyError) as error:
        raise StorageError(f"the weights in {path} do not fit the network of its configuration: {error}") from error
    return LoadedRun(folder, task, config, net)


def with_data_dir(task: Task[Any], data_dir: str) -> Task[Any]:
    """The task with its data elsewhere.

    Raises:
        ConfigurationError: its data have no folder.
    """
    data = getattr(task, "data", None)
    if not hasattr(data, "data_dir"):
        raise ConfigurationError(f"the data of task {task.name} have no data_dir; leave out --data_dir")
    return replace(task, data=replace(data, data_dir=data_dir))  # type: ignore[type-var]
