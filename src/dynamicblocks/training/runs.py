"""Finished runs, read back."""

from dataclasses import replace
from pathlib import Path

from dynamicblocks.data import ImageDataset
from dynamicblocks.discretisation import with_discretisation
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.network import DynamicNet
from dynamicblocks.training.config import TrainConfig, load_config
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
        net = with_discretisation(config.model.build(data), described)
        net.load_state_dict(weights)
    except (RuntimeError, ConfigurationError, KeyError) as error:
        raise StorageError(f"the weights in {path} do not fit the network of its configuration: {error}") from error
    return folder, config, data, net
