"""Configurations and runs, read from their files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.structure import with_structure
from dynamicblocks.tasks.own import task_of_run
from dynamicblocks.tasks.parsing import USUAL_TASK, table_of, values_of, written_in_file
from dynamicblocks.training.checkpoint import load_exactly
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task
from dynamicblocks.training.train import build


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
    reference, written = written_in_file(path)
    kind = task_of_run(USUAL_TASK if reference is None else reference, own, path)
    table = table_of(kind, [written])
    try:
        values = values_of(table, [written])
        epochs = values.get("epochs", table.options["epochs"].default)
        if "refine.epochs" in values:
            values["refine.epochs"] = tuple(epoch for epoch in values["refine.epochs"] if epoch < epochs)
        return table.make(values)
    except ConfigurationError as error:
        raise StorageError(f"{path} is no configuration of this version: {error}") from error


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
        load_exactly(net, weights)
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
    elsewhere: Task[Any] = replace(task, data=replace(data, data_dir=data_dir))  # type: ignore[type-var]
    elsewhere.check()
    return elsewhere
