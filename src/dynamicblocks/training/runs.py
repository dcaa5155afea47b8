"""Runs begun: what is written down of them."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import num_weights
from dynamicblocks.structure import structure
from dynamicblocks.training.choices import Choices
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.config.tree import check_run_name
from dynamicblocks.training.environment import environment
from dynamicblocks.training.first_process import by_the_first
from dynamicblocks.training.lock import Lock
from dynamicblocks.training.run_checks import Expected
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task


def recorded(task: Task[Any], config: TrainConfig) -> dict[str, Any]:
    """The whole configuration as a run's files hold it: the task's name, its options, and those of all trainings."""
    return {"task": task.reference, **task.as_dict(), **config.as_dict()}


def expected(task: Task[Any], config: TrainConfig) -> Expected:
    """What the files of a run of this task and configuration are to be of."""
    try:
        usual = recorded(type(task)(), TrainConfig())
    except (TypeError, ValueError):  # a task of one's own, made in Python, without defaults
        usual = {}
    return Expected(recorded(task, config), usual)


def run_name(task: Task[Any], config: TrainConfig) -> str:
    """The name of a run that begins now: the one that is asked for, or one that is not taken."""
    if config.run is not None:
        return config.run
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{task.title}"
    others = (f"{name}-{number}" for number in count(2))
    # Of a place that cannot be looked at, whoever makes the folder says why.
    return next(each for each in chain([name], others) if not os.path.exists(f"{config.output}/{each}"))  # noqa: PTH110


def run_path(output: str, name: str) -> Path:
    """The folder of a run.

    Raises:
        ConfigurationError: the name, which may be made of a task's title, leads out of ``output``.
    """
    return Path(output) / check_run_name(name)


def facts_of(task: Task[Any]) -> dict[str, Any]:
    """The facts of the data under their name in the files of a run; nothing where the task gives none.

    Raises:
        ConfigurationError: they are no plain values.
    """
    facts = task.facts()
    if facts is None:
        return {}
    try:
        if not isinstance(facts, Mapping):
            raise TypeError(f"got a {type(facts).__name__}")
        return {"facts": json.loads(json.dumps(facts, allow_nan=False))}
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"facts of the task {task.name} must be a dictionary of finite numbers, truth values, texts, and lists and "
            f"dictionaries of them, as JSON holds it, or None: {error}"
        ) from error


def form_of(task: Task[Any], net: nn.Module) -> dict[str, Any]:
    """All that a file of weights needs for its network to be built again: its structure, and facts of the data."""
    return {**structure(net), **facts_of(task)}


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
        "headline": {"name": task.headline.name, "form": task.headline.form},
        "data": note,
        **facts_of(task),
        "device": str(fabric.device),
        "processes": fabric.world_size,
        **choices.as_record(),
    }
    by_the_first(fabric, lambda: RunFolder.create(path, recorded(task, config), record, fill, lock))
    return RunFolder(path)
