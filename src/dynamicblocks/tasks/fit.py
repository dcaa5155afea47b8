"""A training in one call."""

import tempfile
from dataclasses import replace
from os import PathLike
from typing import Any

from rich.console import Console

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError
from dynamicblocks.tasks.option_table import OptionTable
from dynamicblocks.tasks.task_run import Run
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task
from dynamicblocks.training.train import Training


def fit(
    task: Task[Any],
    data: Any = None,
    *,
    output: str | PathLike[str] | None = None,
    quiet: bool = True,
    **options: Any,
) -> Run:
    """Train a task and return its run, as :func:`~dynamicblocks.load_run` reads it.

    Args:
        task: what to train on what, such as ``Series(...)``.
        data: series from Python, in the place of those that the task names.
        output: the folder in which the run's own folder is made; by default a temporary one, which stays.
        quiet: whether nothing is printed.
        options: of :class:`~dynamicblocks.training.TrainConfig`, as ``epochs=20``, ``seed=1`` or
            ``optimizer=OptimizerConfig(...)``; the others are the usual ones of the task.

    Raises:
        ConfigurationError: the task takes no data, or there is no such option.
    """
    if not isinstance(task, Task):
        raise ArgumentTypeError(f"task must be a task, such as dynamicblocks.tasks.Series(), got {task!r:.80}")
    if data is not None:
        if not hasattr(task, "with_data"):
            raise ConfigurationError(f"the task {task.name} reads its data by their name; leave out data")
        task = task.with_data(data)
    usual = OptionTable(type(task)).training({})
    unknown = sorted(options.keys() - vars(usual).keys())
    if unknown:
        raise ConfigurationError(f"a training has no option {unknown[0]!r}; it has {', '.join(vars(usual))}")
    folder = tempfile.mkdtemp(prefix="dynamicblocks-") if output is None else str(output)
    config: TrainConfig = replace(usual, output=folder, **options)
    training = Training(task, config, console=Console(quiet=quiet), table="none")
    outcome = training.run()
    return Run(RunFolder.open(outcome.folder), training.task, training.config, outcome.net.cpu().eval())
