"""Finished runs, read back."""

from pathlib import Path

from dynamicblocks.data import ImageDataset
from dynamicblocks.errors import StorageError
from dynamicblocks.network import DynamicNet
from dynamicblocks.training.config import TrainConfig, load_config
from dynamicblocks.training.run_folder import RunFolder


def load_run(path: Path) -> tuple[RunFolder, TrainConfig, ImageDataset, DynamicNet]:
    """The folder, configuration, data and best network of a run.

    Raises:
        StorageError: a file is missing, damaged, of another version, or does not fit the others.
    """
    folder = RunFolder.open(path)
    config = load_config(folder.configuration())
    data = config.data.load()
    weights = folder.read_weights()
    net = config.model.build(data)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise StorageError(f"the weights in {path} do not fit the network of its configuration: {error}") from error
    return folder, config, data, net
