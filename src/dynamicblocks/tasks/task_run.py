"""A run in Python: its network, and what it says of new data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task


class Normalisation(NamedTuple):
    """Mean and deviation of each channel of the training data; of images in units of pixel values, 0 to 255.

    A network is given ``(pixels - mean) / std``; :meth:`Run.predict` does that.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """A run that was read.

    Args:
        folder: where it lies.
        task: what it was of.
        config: how it was trained.
        net: the network with the weights that were kept, in evaluation mode.
    """

    folder: RunFolder
    task: Task[Any]
    config: TrainConfig
    net: nn.Module

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels; none where the task has no classes."""
        return tuple(self._facts.get("classes", ()))

    @property
    def normalisation(self) -> Normalisation | None:
        """Of what the network is given; None where the task says nothing of it."""
        facts = self._facts
        return Normalisation(tuple(facts["mean"]), tuple(facts["std"])) if {"mean", "std"} <= facts.keys() else None

    @property
    def _facts(self) -> Mapping[str, Any]:
        return self.task.facts() or {}
