"""Runs as the commands that analyse them need them."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.cli.arguments import Arguments
from dynamicblocks.cli.console import Bars, make_console, say
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import named_blocks
from dynamicblocks.tasks import Run, load_run
from dynamicblocks.tasks.own import asked_task, changed_since
from dynamicblocks.tasks.parsing import written_in_file
from dynamicblocks.training import Batches, Place, RunFolder, Task, TrainConfig
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.disk import ReadOnlyError
from dynamicblocks.training.hardware import DOUBLE, make_fabric, make_place
from dynamicblocks.training.manifestations import own_integrator
from dynamicblocks.training.task import SplitName, batches_of

SINGLE = "32-true"


@dataclass(frozen=True)
class ReadyRun:
    """A finished run on the device asked for, with the samples to evaluate it on."""

    folder: RunFolder
    task: Task[Any]
    config: TrainConfig
    net: nn.Module
    batches: Batches[Any]
    fabric: Fabric
    place: Place
    precision: str

    @property
    def integrator(self) -> str:
        """With which it was trained."""
        return own_integrator(self.net)

    @property
    def model(self) -> str:
        """The name of its network, or of its task where that has none."""
        return getattr(getattr(self.task, "model", None), "name", self.task.name)

    @property
    def title(self) -> str:
        """Model and integrator."""
        return f"{self.model}, {self.integrator}" if self.integrator else self.model

    @property
    def source(self) -> str:
        """The name of its data."""
        return self.task.title.removesuffix(f"-{self.model}")

    @cached_property
    def test(self) -> Batches[Any]:
        """The test samples."""
        return self.task.batches("test", self.place)

    @cached_property
    def training(self) -> Batches[Any]:
        """The training samples, changed at random as in training."""
        return self.task.batches("train", self.place)


def add_task_argument(parser: Arguments) -> None:
    """The class of a run's task, where it was read from a file."""
    parser.add_argument(
        "--task",
        help="FILE.py:Name, where the run was trained with such a task: where its file lies is not recorded",
    )


def add_device_arguments(parser: Arguments) -> None:
    """Where to read and to compute."""
    add_task_argument(parser)
    parser.add_argument("--data_dir", help="local copy of the data; else the run's own")
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument(
        "--precision",
        help="32-true, bf16-mixed, 64-true, ...; by default 64-true for a run that was trained in it, else 32-true",
    )


def read(options: Namespace, path: str, bars: Bars, device: str = "cpu") -> Run:
    """The run in ``path``, of the task that was asked for, if one was."""
    own = None if options.task is None else asked_task(options.task)

    def told(text: str) -> None:
        say(bars.console, f"Note: {text}")

    with bars.bar(f"reading {path}", said=False):
        run = load_run(Path(path), data_dir=options.data_dir, own=own, device=device, told=told)
    reference, _ = written_in_file(run.folder.configuration())
    note = changed_since(reference, own)
    if note:
        told(note)
    return run


def load(options: Namespace, path: str, split: SplitName, bars: Bars) -> ReadyRun:
    """The run in ``path``, ready to be evaluated on one of its splits."""
    _check_device(options)
    return _ready(options, read(options, path, bars), split, bars)


def load_all(options: Namespace, paths: Sequence[str], split: SplitName, bars: Bars) -> list[ReadyRun]:
    """The runs in ``paths``, ready to be compared; all networks are read before any data are."""
    _check_device(options)
    runs = [read(options, path, bars) for path in paths]
    for run in runs:
        check_beside(runs[0], run)
    return [_ready(options, run, split, bars) for run in runs]


def _check_device(options: Namespace) -> None:
    make_fabric(HardwareConfig(accelerator=options.accelerator, precision=options.precision or SINGLE))


def _ready(options: Namespace, run: Run, split: SplitName, bars: Bars) -> ReadyRun:
    trained = run.config.hardware
    precision = options.precision or (DOUBLE if trained.precision == DOUBLE else SINGLE)
    fabric = make_fabric(HardwareConfig(accelerator=options.accelerator, precision=precision))
    # In this precision, whatever that of the training was.
    place = make_place(replace(run.config, hardware=replace(trained, precision=precision)), fabric)
    with bars.bar(f"reading data: {run.task.title}", said=False):
        run.task.load()
    batches = batches_of(run.task, split, place)
    net = fabric.strategy.precision.convert_module(run.net.to(fabric.device, place.dtype)).eval()
    return ReadyRun(run.folder, run.task, run.config, net, batches, fabric, place, precision)


def refusal(write: Callable[[], object]) -> str:
    """Write something into a run; why not, where it may only be read, and else nothing."""
    try:
        write()
    except ReadOnlyError as error:
        return str(error)
    return ""


def say_where(files: Sequence[Path], refused: str) -> None:
    """Say which files of a run hold what was printed; one that may only be read is no error of who reads it."""
    names = " and ".join(map(str, files))
    say(make_console(), f"Note: {refused}; what is printed here is all there is" if refused else f"Written to {names}")


def check_beside(first: Run | ReadyRun, other: Run | ReadyRun) -> None:
    """Raise unless two runs can be compared by what their discretisation does to one figure.

    Raises:
        ConfigurationError: a network has no dynamic blocks, or the runs are of tasks with other figures.
    """
    if not named_blocks(other.net):
        raise ConfigurationError(
            f"the network of {other.folder.path} has no dynamic blocks, so no other discretisations"
        )
    if first.task.headline != other.task.headline:
        raise ConfigurationError(
            f"{first.folder.path} is judged by {first.task.headline.heading} and {other.folder.path} by "
            f"{other.task.headline.heading}; give runs of one task"
        )
