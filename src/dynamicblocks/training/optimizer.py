"""The optimiser and its learning rate."""

import math

import torch
from torch import nn

from dynamicblocks.training.config import OptimizerConfig


def make_optimizer(net: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD over the weights that learn; those of rank 0 or 1 (biases, normalisations) do not decay."""
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
    )


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of step 0, ..., ``steps - 1``: a linear rise, then half a cosine to zero, or constant.

    >>> learning_rate(OptimizerConfig(lr=1.0, warmup=0.2), step=1, steps=10)
    1.0
    """
    warm = round(config.warmup * steps)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` for every weight from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
