"""The optimiser and its learning rate."""

import math

import torch
from torch import nn

from dynamicblocks.layers.twist import TwistConv
from dynamicblocks.training.config import OptimizerConfig
from dynamicblocks.training.muon import Muon


def make_optimizer(net: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD or Muon over the weights that learn; those of rank 0 or 1 (biases, normalisations) decay only if asked.

    Every group has a ``share``: its learning rate is that share of ``config.lr``, all along the schedule.
    """
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    small = config.weight_decay if config.decay_all else 0.0
    # Twists are kernels; they stand apart only if they have a rate of their own.
    twisted_layers = (module for module in net.modules() if isinstance(module, TwistConv))
    apart = set() if config.twist_lr is None else {id(layer.twist) for layer in twisted_layers}
    twists = [weight for weight in weights if id(weight) in apart]
    matrices = [weight for weight in weights if weight.ndim > 1 and id(weight) not in apart]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": small, "share": 1.0},
    ]
    twisted = {"params": twists, "share": (config.twist_lr or 0.0) / config.lr}
    if config.name == "sgd":
        groups += [{**twisted, "weight_decay": config.weight_decay}] if twists else []
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
        )
    # Muon is for what lies inside a network; its linear head moves plainly.
    groups[0]["params"] = [weight for weight in matrices if weight.ndim == 2]
    kernels = [weight for weight in matrices if weight.ndim > 2]
    share = config.kernel_lr / config.lr
    groups.append({"params": kernels, "weight_decay": config.kernel_decay, "share": share, "orthogonal": True})
    groups.append({**twisted, "weight_decay": config.kernel_decay, "orthogonal": True})
    return Muon([group for group in groups if group["params"]], lr=config.lr, momentum=config.momentum)


def learning_rate(config: OptimizerConfig, step: int, steps: int, epoch: int = 0) -> float:
    """The learning rate of step 0, ..., ``steps - 1``, which lies in ``epoch``: a linear rise, then the schedule.

    ``xexp`` rises and falls by itself (liuyao12): lr_end + lr x exp(1 - x).

    >>> learning_rate(OptimizerConfig(lr=1.0, warmup=0.2), step=1, steps=10)
    1.0
    """
    if config.schedule == "xexp":
        x = (step + 1) / (config.peak * steps)
        return config.lr_end + config.lr * x * math.exp(1 - x)
    warm = round(config.warmup * steps)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "steps":
        return float(config.lr * config.decay ** sum(epoch >= decayed for decayed in config.decay_epochs))
    left = 1 - (step - warm) / max(1, steps - warm)
    height = left if config.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return config.lr_end + (config.lr - config.lr_end) * height


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use ``rate`` from now on, each group its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
