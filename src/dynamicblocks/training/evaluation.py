"""Measuring a network on the batches of a task."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dynamicblocks.bounded_json import recordable
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.hardware import make_sums, over_processes
from dynamicblocks.training.task import Batches, Task


@dataclass(frozen=True)
class Score:
    """What a network reached on a split.

    Args:
        figures: the task's, by name; one of them is the loss.
        samples: how many there were.
        seconds: that it took.

    >>> Score({"loss": 0.5, "accuracy": 0.75}, samples=8, seconds=2.0)["accuracy"]
    0.75
    """

    figures: Mapping[str, float]
    samples: int
    seconds: float

    def __getitem__(self, name: str) -> float:
        return self.figures[name]

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.figures["loss"]

    @property
    def samples_per_second(self) -> float:
        """Throughput."""
        return self.samples / self.seconds

    @property
    def recorded(self) -> dict[str, float | None]:
        """The figures as files hold them: null for one that is not finite, which JSON has no number for."""
        return {name: recordable(value) for name, value in self.figures.items()}

    def as_record(self, unit: str) -> dict[str, Any]:
        """Plain values for a file: the figures, the number of samples under the name of their unit, the time."""
        return {**self.recorded, unit: self.samples, "seconds": self.seconds}


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then the mode that was."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


@contextmanager
def evaluating(net: nn.Module, fabric: Fabric) -> Iterator[None]:
    """Evaluation mode without gradients, in the precision asked for; a network of such weights gets such inputs."""
    convert = fabric.strategy.precision.convert_input
    hook = net.register_forward_pre_hook(lambda _, inputs: convert(inputs))
    try:
        with evaluation_mode(net), torch.inference_mode(), fabric.autocast():
            yield
    finally:
        hook.remove()


Seen = Callable[[int], object]
"""What hears of each batch that was measured, by its number: a bar, or what may end the work there."""


def evaluate(task: Task[Any], net: nn.Module, batches: Batches[Any], fabric: Fabric, seen: Seen | None = None) -> Score:
    """The figures over a split, over all processes, with running statistics left as they are."""
    return score_of(task, net, batches.evaluation(), fabric, seen)


def score_of(
    task: Task[Any], net: nn.Module, batches: Iterable[Any], fabric: Fabric, seen: Seen | None = None
) -> Score:
    """The figures over any batches, as in :func:`evaluate`."""
    begin = time.perf_counter()
    total = make_sums(len(task.sums), fabric.device)
    with evaluating(net, fabric):
        for number, batch in enumerate(batches):
            total += task.score(net, batch)
            if seen is not None:
                seen(number)
    sums = over_processes(fabric, total).cpu()  # waits for what the device has still to do
    return score_from(task, sums, time.perf_counter() - begin)


def score_from(task: Task[Any], sums: Tensor, seconds: float) -> Score:
    """The figures that follow from the sums over batches and processes."""
    named = dict(zip(task.sums, sums.tolist(), strict=True))
    if named[task.sums[0]] == 0:
        raise ConfigurationError(f"there are no {task.unit} to measure a network on")
    return Score(task.measured(named), round(named[task.sums[0]]), seconds)


def answered(task: Task[Any], net: nn.Module, batch: Any, fabric: Fabric) -> Any:
    """The batch with the answers of ``net`` in the place of the true ones; None where the task knows no such thing."""
    with evaluating(net, fabric):
        return task.answered(net, batch)
