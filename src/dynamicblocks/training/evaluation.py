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
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import FIRST_ORDER, as_integrator
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


def own_integrator(net: DynamicNet) -> str:
    """The integrators of its blocks, each once."""
    return ", ".join(dict.fromkeys(block.integrator.shorthand for block in net.blocks))


def own_equation(net: DynamicNet) -> str:
    """What the integrators of all blocks solve; empty where that is not one equation."""
    solved = {block.integrator.equation for block in net.blocks}
    return solved.pop() if len(solved) == 1 else ""


def solves_its_equation(net: DynamicNet, integrator: str) -> bool:
    """Whether the weights of ``net`` make the same function under it, more or less exactly."""
    if not own_equation(net) or as_integrator(integrator).equation != own_equation(net):
        return False
    try:
        reintegrated(net, integrator)
    except ConfigurationError:  # a layer without the parts that it reads, steps that it cannot take
        return False
    return True


def comparable(
    net: DynamicNet, integrators: Sequence[str], factors: Sequence[int]
) -> tuple[Sequence[str], Sequence[int]]:
    """What of these to show ``net`` under: the integrators that it has, and those that solve the same equation."""
    own = own_integrator(net)
    names = [name for name in integrators if name == own or solves_its_equation(net, name)]
    if own and own not in names:
        names.insert(0, own)
    return names, [1] if any(block.integrator.bound_to_steps for block in net.blocks) else factors


def caveat(net: DynamicNet, integrators: Iterable[str]) -> str:
    """What to know of a table of ``net`` under these: which of them make another function of its weights."""
    own, equation = own_integrator(net), own_equation(net)
    others = [name for name in dict.fromkeys(integrators) if name != own and not solves_its_equation(net, name)]
    if not equation:
        return "With other steps or integrators these weights make another function." if net.blocks else ""
    if others:
        return f"Trained as {equation}. Another function of the same weights: {', '.join(others)}."
    return "" if equation == FIRST_ORDER else f"Trained as {equation}, which other integrators do not solve."


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
    """The weights of ``net`` under every integrator and with so many times its steps; ``seen`` is called after each.

    Its own integrator keeps the weights that it has.
    """
    own = own_integrator(net)
    found = []
    for integrator in integrators:
        for factor in factors:
            other, _ = reintegrated(net, None if integrator == own else integrator, steps_factor=factor)
            score = evaluate(other, batches, fabric)
            found.append(
                Manifestation(
                    integrator, factor, other.evaluations, score.loss, score.accuracy, score.images_per_second
                )
            )
            if seen is not None:
                seen()
    return found
