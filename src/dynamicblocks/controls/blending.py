"""Calling one of several equal layers with a blend of their weights and statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = Sequence[float]


def is_variance(name: str) -> bool:
    """Whether a buffer holds variances, which must stay positive."""
    return name.rpartition(".")[2] == "running_var"


def blend(tensors: Sequence[Tensor], weights: Weights) -> Tensor:
    """sum_i w_i x_i."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = torch.add(total, tensor, alpha=weight)
    return total


def blended_parameters(modules: Sequence[nn.Module], weights: Weights) -> dict[str, Tensor]:
    """The parameters sum_i w_i theta_i, by name."""
    named = [dict(module.named_parameters()) for module in modules]
    return {name: blend([parameters[name] for parameters in named], weights) for name in named[0]}


def call_blended(
    modules: Sequence[nn.Module], weights: Weights, parameters: dict[str, Tensor], arguments: tuple[object, ...]
) -> Tensor:
    """Call the module of the largest weight with blended ``parameters`` and blended buffers.

    Floating-point buffers are blended like the weights; integer buffers are the called module's own. In training, what
    the call did to the blended buffers is given back to every module by its share (:func:`_share_update`).
    """
    called = max(range(len(modules)), key=lambda index: weights[index])
    named = [dict(module.named_buffers()) for module in modules]
    buffers = {
        name: blend([own[name] for own in named], weights) if buffer.is_floating_point() else buffer.clone()
        for name, buffer in named[called].items()
    }
    training = modules[called].training and bool(buffers)
    before = {name: buffer.clone() for name, buffer in buffers.items()} if training else {}
    output = functional_call(modules[called], {**parameters, **buffers}, arguments)
    if training:
        with torch.no_grad():
            for name, old in before.items():
                _share_update(name, [own[name] for own in named], weights, old, buffers[name])
    return output


def _share_update(name: str, owned: Sequence[Tensor], weights: Weights, old: Tensor, new: Tensor) -> None:
    """Move every module's buffer by its share w_i of the change of the blended one.

    A variance v_i takes the share w_i v_i / v of the relative change, so that it stays positive:
    v_i <- v_i (1 + w_i (v_new / v - 1)), whose factor is at least 1 - w_i. Integer counters all take the change.
    """
    change = new - old
    for buffer, weight in zip(owned, weights, strict=True):
        if not buffer.is_floating_point():
            buffer.add_(change)
        elif is_variance(name):
            share = torch.where(old > 0, buffer / old, torch.ones_like(old))
            buffer.add_(change * share, alpha=weight)
        else:
            buffer.add_(change, alpha=weight)
