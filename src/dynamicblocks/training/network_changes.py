"""Networks that change their shape while they train: what happens to weights and momentum."""

import copy
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dynamicblocks.draws import generator
from dynamicblocks.network import named_blocks
from dynamicblocks.surgery import rediscretise, refine
from dynamicblocks.training.config import RefineConfig, TrainConfig, TwistConfig

Momenta = MutableMapping[Tensor, dict[str, Any]]
"""The state of an optimiser: for each weight, its ``momentum_buffer``."""


class NetworkChange(Protocol):
    """A change of a network in training."""

    @property
    def name(self) -> str:
        """What was done: a past participle."""

    def apply(self, net: nn.Module) -> nn.Module:
        """The network from now on."""

    def carry(self, old: nn.Module, momenta: Momenta, new: nn.Module, carried: Momenta) -> None:
        """Give the new weights the momentum of those they come from."""


@dataclass(frozen=True)
class Refined:
    """More controls and steps, perhaps with noise on the copies, which is drawn for this epoch of this seed."""

    config: RefineConfig
    seed: int
    epoch: int
    name: str = "refined"

    def apply(self, net: nn.Module) -> nn.Module:
        """The network with ``factor`` times the controls and steps."""
        finer = refine(net, self.config.factor)
        if self.config.variance:
            scatter_controls(finer, self.config.variance, generator(self.seed, self.epoch))
        return finer

    def carry(self, old: nn.Module, momenta: Momenta, new: nn.Module, carried: Momenta) -> None:
        """Refine the momentum as the weights."""
        carry_momentum(old, momenta, new, carried, self.config.factor)


@dataclass(frozen=True)
class Rediscretised:
    """Other numbers of control intervals and steps, theta(t) and its momentum projected."""

    controls: int | None
    steps: int | None
    name: str = "rediscretised"

    def apply(self, net: nn.Module) -> nn.Module:
        """The network with these numbers."""
        return rediscretise(net, controls=self.controls, steps=self.steps)

    def carry(self, old: nn.Module, momenta: Momenta, new: nn.Module, carried: Momenta) -> None:
        """Project the momentum as the weights."""
        map_momentum(old, momenta, new, carried, self.apply)


@dataclass(frozen=True)
class Twisted:
    """Convolutions whose coefficients vary over the image, at first as the same function."""

    config: TwistConfig
    name: str = "twisted"

    def apply(self, net: nn.Module) -> nn.Module:
        """The network with its twist."""
        return self.config.twist(net)

    def carry(self, old: nn.Module, momenta: Momenta, new: nn.Module, carried: Momenta) -> None:
        """Weights of the same name go on as they were; a twist begins without momentum."""
        before = dict(old.named_parameters())
        for name, weight in new.named_parameters():
            if name in before and before[name] in momenta:
                carried[weight] = {key: _copied(entry) for key, entry in momenta[before[name]].items()}


def changes_before(config: TrainConfig, epoch: int) -> Iterator[NetworkChange]:
    """What is to change before an epoch, in this order."""
    if epoch in config.refine.epochs:
        yield Refined(config.refine, config.seed, epoch)
    if epoch in config.rediscretise.epochs:
        yield Rediscretised(*config.rediscretise.numbers(epoch))
    # A twist of epoch 0 is there from the beginning.
    if epoch and config.twist.turned_on(epoch):
        yield Twisted(config.twist)


def _copied(entry: Any) -> Any:
    return entry.detach().clone() if isinstance(entry, Tensor) else entry


def carry_momentum(old: nn.Module, momenta: Momenta, new: nn.Module, carried: Momenta, factor: int) -> None:
    """Give the weights of a refined network the momentum of those they come from."""
    map_momentum(old, momenta, new, carried, partial(refine, factor=factor))


def map_momentum(
    old: nn.Module,
    momenta: Momenta,
    new: nn.Module,
    carried: Momenta,
    change: Callable[[nn.Module], nn.Module],
) -> None:
    """Give the weights of a network that was changed the momentum of those they come from.

    Momentum is a direction in the space of weights, so it is changed as weights are: by the same linear map.
    """
    moving = copy.deepcopy(old)
    with torch.no_grad():
        for target, weight in zip(moving.parameters(), old.parameters(), strict=True):
            momentum = momenta.get(weight, {}).get("momentum_buffer")
            target.copy_(torch.zeros_like(target) if momentum is None else momentum)
    changed = dict(change(moving).named_parameters())
    for name, weight in new.named_parameters():
        if weight.requires_grad:
            carried[weight] = {"momentum_buffer": changed[name].detach().clone()}


def scatter_controls(net: nn.Module, spread: float, draw: torch.Generator) -> None:
    """Multiply every weight of every control by 1 + ``spread`` times a normal number, in place.

    Copies that start equal, with equal momentum, would otherwise part only as their gradients do.
    """
    with torch.no_grad():
        for block in named_blocks(net).values():
            for weight in block.controls.parameters():
                noise = torch.randn(weight.shape, generator=draw).to(weight)
                weight.mul_(1 + spread * noise)
