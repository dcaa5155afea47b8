"""Runs begun: what is written down of them."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import num_weights
from dynamicblocks.training.choices import Choices
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.environment import environment
from dynamicblocks.training.first_process import by_the_first
from dynamicblocks.training.lock import Lock
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task


def recorded(task: Task[Any], config: TrainConfig) -> dict[str, Any]:
    """The whole configuration as a run's files hold it: the task's name, its options, and those of all trainings."""
    return {"task": task.reference, **task.as_dict(), **config.as_dict()}


def run_name(task: Task[Any], config: TrainConfig) -> str:
    """The name of a run that begins now."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{task.title}" if config.run is None else config.run


def run_path(output: str, name: str) -> Path:
    """The folder of a run.

    Raises:
        ConfigurationError: the name leads out of ``output``.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise ConfigurationError(
            f"run must be a name, or a path within --output such as tests/first, got {name!r}; another place is "
            "given by --output"
        )
    return Path(output) / name


def begin_run(
    task: Task[Any],
    config: TrainConfig,
    net: nn.Module,
    note: str,
    fabric: Fabric,
    choices: Choices,
    fill: Callable[[RunFolder], object],
    lock: Lock,
) -> RunFolder:
    """A new folder with what makes the run and what ``fill`` writes into it, in the hands of ``lock``.

    Raises:
        ConfigurationError: there is something at its place.
        StorageError: it cannot be written; then nothing of it is there.
    """
    path = run_path(config.output, fabric.broadcast(run_name(task, config)))
    record = {
        **environment(),
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "weights": num_weights(net),
        "data": note,
        "device": str(fabric.device),
        "processes": fabric.world_size,
        **choices.as_record(),
    }
    by_the_first(fabric, lambda: RunFolder.create(path, recorded(task, config), record, fill, lock))
    return RunFolder(path)
