"""Runs as the commands that analyse them need them."""

from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from lightning_fabric import Fabric

from dynamicblocks.data import Batches, ImageDataset
from dynamicblocks.network import DynamicNet
from dynamicblocks.training import TrainConfig, make_batches
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.evaluation import own_integrator
from dynamicblocks.training.hardware import make_fabric
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import load_run


@dataclass(frozen=True)
class LoadedRun:
    """A finished run on the device asked for, with the images to evaluate it on."""

    folder: RunFolder
    config: TrainConfig
    data: ImageDataset
    net: DynamicNet
    batches: Batches
    fabric: Fabric

    @property
    def integrator(self) -> str:
        """With which it was trained."""
        return own_integrator(self.net)

    @property
    def title(self) -> str:
        """Model and integrator."""
        return f"{self.config.model.name}, {self.integrator}"


def add_device_arguments(parser: ArgumentParser) -> None:
    """Where to read and to compute."""
    parser.add_argument("--data_dir", type=str | None, default=None, help="local copy of the data; else the run's own")
    parser.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--precision", type=str, default="32-true", help="32-true, bf16-mixed, ...")


def load(options: Namespace, path: str, split: str) -> LoadedRun:
    """The run in ``path``, ready to be evaluated on one of its splits."""
    fabric = make_fabric(HardwareConfig(accelerator=options.accelerator, precision=options.precision))
    folder, config, data, net = load_run(Path(path), data_dir=options.data_dir)
    batches = make_batches(data, getattr(data, split), config, fabric)
    net.to(fabric.device).eval()
    return LoadedRun(folder, config, data, net, batches, fabric)
