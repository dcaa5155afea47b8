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
    state = {**parameters, **buffers}
    output = functional_call(modules[called], state, arguments)
    if training:
        with torch.no_grad():
            for name, old in before.items():
                for module, weight in zip(modules, weights, strict=True):
                    _share_update(module, name, weight, old, state[name], in_place=state[name] is buffers[name])
    return output


def _share_update(module: nn.Module, name: str, weight: float, old: Tensor, new: Tensor, in_place: bool) -> None:
    """Move a module's buffer b by its share w of the change of the blended one.

    A variance takes the share w b / old of the relative change, so that it stays positive:
    b <- b (1 + w (new / old - 1)), whose factor is at least 1 - w. Integer counters take the whole change.
    """
    parent_name, _, buffer_name = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    buffer: Tensor = getattr(parent, buffer_name)
    if buffer.dtype == torch.bool:
        return
    change = new - old
    if is_variance(name):
        change = change * torch.where(old > 0, buffer / old, torch.ones_like(old))
    if buffer.is_floating_point():
        change = change * weight
    if in_place:
        # As the layer itself did. Batch normalisation saves its statistics for a backward pass that, in training,
        # does not read them; .data moves them without telling autograd, as batch normalisation's own kernel does.
        buffer.data.add_(change)
    else:
        # The layer put a new tensor in the place of its buffer: the old one may be needed by autograd.
        setattr(parent, buffer_name, buffer + change)
