"""Networks that change their shape while they train: what happens to weights and momentum."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dynamicblocks.controls.controls import Controls
from dynamicblocks.draws import generator
from dynamicblocks.network import named_blocks
from dynamicblocks.surgery import rediscretise, refine
from dynamicblocks.training.config import RefineConfig, TrainConfig, TwistConfig

Momenta = MutableMapping[Tensor, dict[str, Any]]
"""The state of an optimiser: for each weight, by name, what it keeps of its gradients."""

SECOND_MOMENTS = ("exp_avg_sq",)
COUNTERS = ("step",)
"""What in it is no direction in the space of weights."""


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
    """Give the weights of a network that was changed the state of those they come from, whatever the optimiser.

    - Momentum is a direction in the space of weights, so it is changed as weights are: by the same linear map.
    - A second moment is none: it says how large gradients are, and that map may make it negative. It becomes the mean
      of those that the weight comes from, weighted by the sizes |s_j| of their shares, so a copy keeps it, and with it
      the length of its steps. It stays in the range of the old ones, and by Cauchy-Schwarz a step, momentum over the
      root of the second moment, is at most sum_j |s_j| times as long as the longest of theirs.
    - A number of steps is the largest of theirs.

    A weight that comes from none that has moved begins anew.
    """
    states = {name: momenta.get(weight, {}) for name, weight in old.named_parameters()}
    entries = dict.fromkeys(key for state in states.values() for key in state)
    mapped = {key: _mapped(old, states, key, change) for key in entries if key not in COUNTERS}
    sources = _sources(old, new)
    for name, weight in new.named_parameters():
        shares = {source: share for source, share in sources.get(name, {}).items() if states.get(source)}
        if not weight.requires_grad or not shares:
            continue
        carried[weight] = {key: mapped[key][name].detach().clone() for key in mapped}
        for key in entries:
            found = {source: states[source][key] for source in shares if key in states[source]}
            if key in COUNTERS:
                carried[weight][key] = _copied(max(found.values()))
            elif key in SECOND_MOMENTS and all(moment.shape == weight.shape for moment in found.values()):
                total = sum(abs(shares[source]) for source in found)
                carried[weight][key] = sum(abs(shares[source]) / total * moment for source, moment in found.items())
            elif key in SECOND_MOMENTS:
                # Of an integrator with weights for its steps: copies, and zeros for steps that are new.
                carried[weight][key].clamp_(min=0.0)


def _mapped(
    old: nn.Module, states: Mapping[str, Mapping[str, Any]], key: str, change: Callable[[nn.Module], nn.Module]
) -> dict[str, Tensor]:
    """What the change makes of an entry of the state, in the place of the weights; zero where there is none."""
    moving = copy.deepcopy(old)
    with torch.no_grad():
        for name, target in moving.named_parameters():
            entry = states[name].get(key)
            target.copy_(torch.zeros_like(target) if entry is None else entry)
    return dict(change(moving).named_parameters())


def _sources(old: nn.Module, new: nn.Module) -> dict[str, dict[str, float]]:
    """For each weight of ``new``, by name, the weights of ``old`` that it is a combination of, and their shares.

    Controls are combined, as :meth:`Basis.nearest_from` says; everything else comes from what has its name.
    """
    found: dict[str, dict[str, float]] = {}
    if isinstance(new, Controls) and isinstance(old, Controls):
        for place, row in enumerate(new.basis.nearest_from(old.basis).tolist()):
            for index, share in enumerate(row):
                if share != 0.0:
                    # Layers may hold blocks, whose controls are combined in their turn.
                    for name, origins in _sources(old.layers[index], new.layers[place]).items():
                        combined = found.setdefault(f"layers.{place}.{name}", {})
                        combined.update({f"layers.{index}.{origin}": share * w for origin, w in origins.items()})
        return found
    for name, _ in new.named_parameters(recurse=False):
        found[name] = {name: 1.0}
    for child, module in new.named_children():
        other = old._modules.get(child)
        if other is not None:
            for name, origins in _sources(other, module).items():
                found[f"{child}.{name}"] = {f"{child}.{origin}": share for origin, share in origins.items()}
    return found


def scatter_controls(net: nn.Module, spread: float, draw: torch.Generator) -> None:
    """Multiply every weight of every control by 1 + ``spread`` times a normal number, in place.

    Copies that start equal, with equal momentum, would otherwise part only as their gradients do.
    """
    with torch.no_grad():
        for block in named_blocks(net).values():
            for weight in block.controls.parameters():
                noise = torch.randn(weight.shape, generator=draw).to(weight)
                weight.mul_(1 + spread * noise)
