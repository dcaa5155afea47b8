"""Configurations and runs, read from their files."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, DynamicBlocksError, StorageError
from dynamicblocks.tasks.own import task_of_run
from dynamicblocks.tasks.own_parts import UnreadPartError
from dynamicblocks.tasks.parsing import USUAL_TASK, table_of, values_of, written_in_file
from dynamicblocks.tasks.task_run import Run
from dynamicblocks.training.checkpoint import filled
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import expected
from dynamicblocks.training.storage import Told, log
from dynamicblocks.training.task import CPU, Task
from dynamicblocks.training.train import build

# Of several threads each would put back what another has drawn.
_building = Lock()


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


def load_run(
    path: str | PathLike[str],
    *,
    data_dir: str | None = None,
    own: type[Task[Any]] | None = None,
    device: torch.device | str = "cpu",
    told: Told = log,
) -> Run:
    """A run: its task, its configuration and its best network, in evaluation mode.

    Neither data nor the network are needed: what a run knows of its data was stored with it. The data are read by what
    measures on them, and for runs of earlier versions and of tasks of one's own without :meth:`Task.facts`.

    Args:
        path: of the run's folder.
        data_dir: where the data lie now, if they are asked for.
        own: the class of a task that is not among those of the package, ``own_task("FILE.py:Name")``.
        device: where the network is to lie.
        told: hears of files that an earlier version wrote, which have no checksums.

    Raises:
        StorageError: a file is missing, damaged, of another version, or does not fit the others.
        ConfigurationError: it is of a task of its own, which is not given; or there is no such device.
    """
    place = as_device(device)
    if own is not None and not (isinstance(own, type) and issubclass(own, Task)):
        raise ArgumentTypeError(
            f'own must be a class of tasks, such as own_task("FILE.py:Name") gives, got {own!r:.80}'
        )
    if not isinstance(path, (str, PathLike)):
        raise ArgumentTypeError(f"path must be that of a run's folder, got {path!r:.80}")
    folder = RunFolder.open(Path(path))
    task, config = load_config(folder.configuration(), own)
    if data_dir is not None:
        task = with_data_dir(task, data_dir)
    weights, described = folder.read_weights(expected(task, config), told)
    _know_data(task, described, folder.path)
    try:
        # The weights drawn at first are replaced at once: whoever reads a run keeps their own random numbers.
        with _building, torch.random.fork_rng(devices=[]), CPU:
            net = filled(build(task, config), described, weights)
    except UnreadPartError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise StorageError(f"the weights in {path} do not fit the network of its configuration: {said:.300}") from error
    return Run(folder, task, config, net.to(place).eval())


def _know_data(task: Task[Any], described: Mapping[str, Any], path: Path) -> None:
    """Give a task the facts of its data that a run holds, or read the data of one that holds none."""
    facts = described.get("facts")
    if facts is not None:
        try:
            task.recall(facts)
        except (ConfigurationError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise StorageError(f"{path / 'model.safetensors'} holds damaged facts of the data: {error}") from error
        return
    try:
        task.load()
    except DynamicBlocksError as error:
        # Whatever the data lack, it is the file that asks for them.
        raise StorageError(
            f"{path} holds no facts of its data, as those of earlier versions and of tasks without facts() do not, so "
            f"the data are needed: {error}"
        ) from error


def as_device(device: torch.device | str) -> torch.device:
    """A device that is there.

    Raises:
        ConfigurationError: there is none of that name.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise ConfigurationError(
            f"device must be one that is here, such as cpu or cuda, got {device!r}: {said}"
        ) from error
    if found.type == "meta":
        raise ConfigurationError("device must be one that holds numbers, such as cpu or cuda, got 'meta'")
    return found


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
