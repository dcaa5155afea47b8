"""Runs: begun, and read back."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from lightning_fabric import Fabric

from dynamicblocks.data import ImageDataset
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.network import DynamicNet
from dynamicblocks.structure import with_structure
from dynamicblocks.training.config import TrainConfig, load_config
from dynamicblocks.training.environment import environment
from dynamicblocks.training.measured import Measurement
from dynamicblocks.training.run_folder import RunFolder


def load_run(path: Path, *, data_dir: str | None = None) -> tuple[RunFolder, TrainConfig, ImageDataset, DynamicNet]:
    """The folder, configuration, data and best network of a run; the data may lie elsewhere now.

    Raises:
        StorageError: a file is missing, damaged, of another version, or does not fit the others.
    """
    folder = RunFolder.open(path)
    config = load_config(folder.configuration())
    data = (config.data if data_dir is None else replace(config.data, data_dir=data_dir)).load()
    weights, described = folder.read_weights()
    try:
        net = with_structure(config.build(data), described)
        net.load_state_dict(weights)
    except (RuntimeError, ConfigurationError, KeyError) as error:
        raise StorageError(f"the weights in {path} do not fit the network of its configuration: {error}") from error
    return folder, config, data, net


def begin_run(
    config: TrainConfig, net: DynamicNet, data: ImageDataset, fabric: Fabric, measured: Sequence[Measurement]
) -> RunFolder:
    """A new folder with what makes the run.

    Raises:
        ConfigurationError: there is something at its place.
    """
    source = config.data.name.partition(":")[0]
    name = config.run or f"{datetime.now():%Y%m%d-%H%M%S}-{source}-{config.model.name}"
    path = Path(config.output) / fabric.broadcast(name)
    record = {
        **environment(),
        "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "weights": net.num_weights,
        "data": data.note,
        "device": str(fabric.device),
        "processes": fabric.world_size,
        "measured_steps": [asdict(each) for each in measured],
    }
    # Every process checks before one of them writes, so that all of them stop.
    RunFolder.check_free(path)
    fabric.barrier()
    if fabric.global_rank == 0:
        RunFolder.create(path, config.as_dict(), record)
    fabric.barrier()
    return RunFolder(path)
