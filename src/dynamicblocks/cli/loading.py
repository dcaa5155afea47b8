"""Runs as the commands that analyse them need them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.tasks import load_run
from dynamicblocks.training import Batches, Place, RunFolder, Task, TrainConfig
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.hardware import make_fabric, make_place
from dynamicblocks.training.manifestations import own_integrator
from dynamicblocks.training.task import SplitName


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

    @cached_property
    def test(self) -> Batches[Any]:
        """The test samples."""
        return self.task.batches("test", self.place)

    @cached_property
    def training(self) -> Batches[Any]:
        """The training samples, changed at random as in training."""
        return self.task.batches("train", self.place)


def add_device_arguments(parser: ArgumentParser) -> None:
    """Where to read and to compute."""
    parser.add_argument("--data_dir", type=str | None, default=None, help="local copy of the data; else the run's own")
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--precision", type=str, default="32-true", help="32-true, bf16-mixed, ...")


def load(options: Namespace, path: str, split: SplitName) -> ReadyRun:
    """The run in ``path``, ready to be evaluated on one of its splits."""
    fabric = make_fabric(HardwareConfig(accelerator=options.accelerator, precision=options.precision))
    run = load_run(Path(path), data_dir=options.data_dir)
    place = make_place(run.config, fabric)
    batches = run.task.batches(split, place)
    run.net.to(fabric.device).eval()
    return ReadyRun(run.folder, run.task, run.config, run.net, batches, fabric, place)
