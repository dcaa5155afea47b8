"""A run in Python: its network, and what it says of new data."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import CPU, Place, Task


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

    def predict(self, x: Any, *, batch_size: int | None = None, resize: bool = False, **more: Any) -> Any:
        """What the network says of new data, normalised as in training, on the CPU and in their order.

        Images: a path, a list of paths, a folder, or an array or tensor of uint8, or of floats in [0, 1], (C, H, W) or
        (B, C, H, W); grey ones also (H, W). One gives a batch of one. Fields: .npz files with the key ``inputs``, or
        floats (B, channels, *space). A task of one's own: what its network is called with, or as its ``predict`` says.

        The network stays where it is and in the mode it is in; several threads may call at once.

        Args:
            x: the data.
            batch_size: samples at a time, which bounds the memory; by default as in evaluation.
            resize: whether images of another size are made to fit; by default they are an error.
            more: what the task's predict takes beside: of series ``times``, ``samples`` and ``seed``, of points
                ``context``.

        Returns:
            A :class:`~dynamicblocks.tasks.Prediction` of images, with ``labels``, ``probabilities`` and ``classes``; a
            :class:`~dynamicblocks.tasks.FieldPrediction` of fields; of a task of one's own a tensor, or what it gives.

        Raises:
            ConfigurationError: the data are not what was expected; the message says both.
            StorageError: a file is missing or damaged.
            SolverError: the answers are not finite.
        """
        self._check_taken("predict", more)
        net, place = self._ready()
        return self.task.predict(net, x, place, batch_size=batch_size, resize=resize, **more)

    def sample(self, number: int, *, times: Any = None, seed: int = 0, **more: Any) -> Any:
        """New samples from what was learnt, on the CPU; of series a SeriesPrediction, of points a tensor.

        Args:
            number: how many.
            times: (length,), those at which series are told; by default through the time of the training.
            seed: of the draws.
            more: what the task's sample takes beside: of points ``context`` and ``solver``, of events ``initial``.

        Raises:
            ConfigurationError: the task has nothing to draw from.
        """
        self._check_taken("sample", more)
        net, place = self._ready()
        return self.task.sample(net, number, place, times=times, seed=seed, **more)

    def _check_taken(self, method: str, more: Mapping[str, Any]) -> None:
        """Raise for keywords that a method of the task does not have."""
        taken = signature(getattr(self.task, method)).parameters
        unknown = [name for name in more if name not in taken]
        if unknown:
            raise ConfigurationError(
                f"{method} of the task {self.task.name} takes no {', '.join(unknown)}; leave it out"
            )

    def _ready(self) -> tuple[nn.Module, Place]:
        """The network in evaluation mode, and its place."""
        net = self.net
        if any(module.training for module in net.modules()):
            # A copy, for another thread may be using the network, and its flags are the caller's.
            net = copy.deepcopy(net).eval()
        weight = next((each for each in (*net.parameters(), *net.buffers()) if each.is_floating_point()), None)
        place = Place(
            device=CPU if weight is None else weight.device,
            dtype=torch.float32 if weight is None else weight.dtype,
            channels_last=self.config.hardware.channels_last is True,
        )
        return net, place

    @property
    def _facts(self) -> Mapping[str, Any]:
        return self.task.facts() or {}
