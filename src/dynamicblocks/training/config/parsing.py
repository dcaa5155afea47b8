"""Configurations as flags of a command and as files."""

from argparse import ArgumentError
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dynamicblocks.errors import StorageError
from dynamicblocks.training.config.tree import TrainConfig


def add_config_arguments(parser: ArgumentParser) -> None:
    """Give a parser every field of :class:`TrainConfig` as a flag, and ``--config FILE``."""
    parser.add_argument("--config", action="config", help="YAML file with some or all of the options below")
    parser.add_class_arguments(TrainConfig, nested_key=None)


def config_of(options: Namespace) -> TrainConfig:
    """The configuration among instantiated options."""
    return TrainConfig(**{each.name: options[each.name] for each in fields(TrainConfig)})


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file.

    Refinements after the end are left out: earlier versions wrote them down, and none was made.

    Raises:
        StorageError: it cannot be read, or holds an unknown key or a value of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainConfig, nested_key=None)
    try:
        options = parser.parse_path(str(path))
        options.refine.epochs = tuple(epoch for epoch in options.refine.epochs if epoch < options.epochs)
        return config_of(parser.instantiate(options))
    except (ArgumentError, TypeError, OSError, ValueError) as error:
        raise StorageError(f"{path} is no configuration of this version: {error}") from error
