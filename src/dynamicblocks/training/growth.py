"""What a refinement during training does to momentum and weights."""

import copy
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.network import DynamicNet
from dynamicblocks.surgery import refine

Momenta = MutableMapping[Tensor, dict[str, Any]]
"""The state of an optimiser: for each weight, its ``momentum_buffer``."""


def carry_momentum(old: DynamicNet, momenta: Momenta, new: DynamicNet, carried: Momenta, factor: int) -> None:
    """Give the weights of a refined network the momentum of those they come from.

    Momentum is a direction in the space of weights, so it is refined as weights are: by the same linear map.
    """
    moving = copy.deepcopy(old)
    with torch.no_grad():
        for target, weight in zip(moving.parameters(), old.parameters(), strict=True):
            momentum = momenta.get(weight, {}).get("momentum_buffer")
            target.copy_(torch.zeros_like(target) if momentum is None else momentum)
    refined = dict(refine(moving, factor).named_parameters())
    for name, weight in new.named_parameters():
        if weight.requires_grad:
            carried[weight] = {"momentum_buffer": refined[name].detach().clone()}


def scatter_controls(net: DynamicNet, spread: float, draw: torch.Generator) -> None:
    """Multiply every weight of every control by 1 + ``spread`` times a normal number, in place.

    Copies that start equal, with equal momentum, would otherwise part only as their gradients do.
    """
    with torch.no_grad():
        for block in net.blocks:
            for weight in block.controls.parameters():
                noise = torch.randn(weight.shape, generator=draw).to(weight)
                weight.mul_(1 + spread * noise)
