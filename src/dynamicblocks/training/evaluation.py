"""Measuring a network on images."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from dynamicblocks.data import Batches
from dynamicblocks.network import DynamicNet
from dynamicblocks.surgery import reintegrated
from dynamicblocks.training.hardware import over_processes


@dataclass(frozen=True)
class Score:
    """What a network reached on a split.

    Args:
        loss: mean cross-entropy.
        accuracy: share of images classified rightly, in [0, 1].
        images: how many there were.
        seconds: that it took.
    """

    loss: float
    accuracy: float
    images: int
    seconds: float

    @property
    def correct(self) -> int:
        """Images classified rightly."""
        return round(self.accuracy * self.images)

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.seconds


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then the mode that was."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def evaluate(net: DynamicNet, batches: Batches, fabric: Fabric) -> Score:
    """Loss and accuracy over a split, over all processes, with running statistics left as they are."""
    return score_of(net, batches.evaluation(), fabric)


def score_of(net: DynamicNet, batches: Iterable[tuple[Tensor, Tensor]], fabric: Fabric) -> Score:
    """Loss and accuracy over any batches of images and labels, as in :func:`evaluate`."""
    begin = time.perf_counter()
    total = torch.zeros(3, device=fabric.device)
    with evaluation_mode(net), torch.inference_mode(), fabric.autocast():
        for images, labels in batches:
            logits = net(in_precision(images, fabric)).float()
            loss = F.cross_entropy(logits, labels, reduction="sum")
            total += torch.stack([loss, (logits.argmax(dim=1) == labels).sum(), loss.new_tensor(len(labels))])
    loss_sum, correct, images_seen = over_processes(fabric, total).tolist()
    return Score(loss_sum / images_seen, correct / images_seen, round(images_seen), time.perf_counter() - begin)


def answered(net: DynamicNet, images: Tensor, fabric: Fabric) -> Tensor:
    """The class that ``net`` gives each image."""
    with evaluation_mode(net), torch.inference_mode(), fabric.autocast():
        return net(in_precision(images, fabric)).argmax(dim=1)


def in_precision(images: Tensor, fabric: Fabric) -> Tensor:
    """Images as a network takes them whose weights have the precision asked for, such as 64-true."""
    converted: Tensor = fabric.strategy.precision.convert_input(images)
    return converted


@dataclass(frozen=True)
class Manifestation:
    """The same weights under one integrator and step count."""

    integrator: str
    steps_factor: int
    evaluations: int
    loss: float
    accuracy: float
    images_per_second: float


def manifestations(
    net: DynamicNet,
    batches: Batches,
    fabric: Fabric,
    integrators: Iterable[str],
    factors: Sequence[int],
    seen: Callable[[], object] | None = None,
) -> list[Manifestation]:
    """The weights of ``net`` under every integrator and with so many times its steps; ``seen`` is called after each."""
    found = []
    for integrator in integrators:
        for factor in factors:
            other, _ = reintegrated(net, integrator, steps_factor=factor)
            score = evaluate(other, batches, fabric)
            found.append(
                Manifestation(
                    integrator, factor, other.evaluations, score.loss, score.accuracy, score.images_per_second
                )
            )
            if seen is not None:
                seen()
    return found
