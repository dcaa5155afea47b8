"""The optimiser and its learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dynamicblocks.layers.twist import TwistConv
from dynamicblocks.training.config import OptimizerConfig
from dynamicblocks.training.muon import Muon

Groups = list[dict[str, Any]]
"""Groups of weights: those of rank 2 and more, the others, and twists that have a rate of their own."""


def make_optimizer(net: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser of the weights that learn; those of rank 0 or 1 (biases, normalisations) decay only if asked.

    Every group has a ``share``: its learning rate is that share of the schedule's, all along.
    """
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    small = config.weight_decay if config.decay_all else 0.0
    # Twists are kernels; they stand apart only if they have a rate of their own.
    twisted_layers = (module for module in net.modules() if isinstance(module, TwistConv))
    apart = set() if config.twist_lr is None else {id(layer.twist) for layer in twisted_layers}
    twists = [weight for weight in weights if id(weight) in apart]
    matrices = [weight for weight in weights if weight.ndim > 1 and id(weight) not in apart]
    groups: Groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": small, "share": 1.0},
    ]
    if twists:
        share = (config.twist_lr or 0.0) / config.rate
        groups.append({"params": twists, "weight_decay": config.weight_decay, "share": share})
    return MAKERS[config.name](groups, config)


def _sgd(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, nesterov=nesterov)


def _muon(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Muon is for what lies inside a network; its linear head moves plainly."""
    matrices, small, *twists = groups
    inside = {"weight_decay": config.kernel_decay, "orthogonal": True}
    split = [
        {**matrices, "params": [weight for weight in matrices["params"] if weight.ndim == 2]},
        small,
        {
            "params": [weight for weight in matrices["params"] if weight.ndim > 2],
            "share": config.kernel_lr / config.rate,
            **inside,
        },
        *({**group, **inside} for group in twists),
    ]
    return Muon([group for group in split if group["params"]], lr=config.rate, momentum=config.momentum)


def _adam(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=config.rate, betas=config.betas, eps=config.eps)


def _adamw(groups: Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, eps=config.eps)


MAKERS: dict[str, Callable[[Groups, OptimizerConfig], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "muon": _muon,
    "adam": _adam,
    "adamw": _adamw,
}
"""What makes the optimiser of each name; :data:`~dynamicblocks.training.config.optimizer.OPTIMIZERS` has the same."""


def learning_rate(config: OptimizerConfig, step: int, steps: int, epoch: int = 0) -> float:
    """The learning rate of step 0, ..., ``steps - 1``, which lies in ``epoch``: a linear rise, then the schedule.

    ``xexp`` rises and falls by itself (liuyao12): lr_end + lr x exp(1 - x).

    >>> learning_rate(OptimizerConfig(lr=1.0, warmup=0.2), step=1, steps=10)
    1.0
    """
    if config.schedule == "xexp":
        x = (step + 1) / (config.peak * steps)
        return config.lr_end + config.rate * x * math.exp(1 - x)
    warm = round(config.warmup * steps)
    if step < warm:
        return config.rate * (step + 1) / warm
    if config.schedule == "constant":
        return config.rate
    if config.schedule == "steps":
        return float(config.rate * config.decay ** sum(epoch >= decayed for decayed in config.decay_epochs))
    left = 1 - (step - warm) / max(1, steps - warm)
    height = left if config.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return config.lr_end + (config.rate - config.lr_end) * height


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from now on, each group its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
