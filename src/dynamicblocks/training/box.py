"""Box constraints on weights in time, kept by projection."""

import math

import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Adaptive
from dynamicblocks.layers.kernels import kernels_of
from dynamicblocks.network import named_blocks
from dynamicblocks.training.config import OptimizerConfig


class Box:
    """|theta| <= bound in every entry of the controls of all blocks.

    The bound of a tensor is B = ``config.box``, divided by what ``config.box_scale`` names:

    - ``step``: the longest step h of those that read the control, so h |theta| <= B at all of them (of controls whose
      blends stay among them, which polynomials do not), and after a refinement as before it;
    - ``pixels``: the k^dims entries that a kernel has for each input channel;
    - ``channels``: the input channels of a group.

    With ``pixels`` and ``channels`` the absolute values of a row of a kernel sum to at most B: that is its operator
    norm in the maximum norm (with any boundary that repeats pixels or puts zeros). Biases have one pixel and channel.

    Args:
        net: its weights are bound; nothing is changed before :meth:`project`.
        config: B, divisors, and whether biases and normalisations are free.

    Raises:
        ConfigurationError: there is nothing to bind, or steps have no length of their own.
    """

    def __init__(self, net: nn.Module, config: OptimizerConfig) -> None:
        bounds: dict[Tensor, float] = {}
        for name, block in named_blocks(net).items():
            for weight, divisor in _divisors(name, block, config).items():
                # A weight in several blocks keeps the bounds of all of them.
                bounds[weight] = min(bounds.get(weight, math.inf), largest_within(config.box / divisor, weight.dtype))
        if not bounds:
            raise ConfigurationError(
                f"optimizer.box binds the {'kernels' if config.box_kernels_only else 'weights'} of dynamic blocks, but "
                "the network has none; leave it out, or take another model"
            )
        self.weights: list[Tensor] = list(bounds)
        self._upper = list(bounds.values())
        self._lower = [-bound for bound in self._upper]

    @property
    def bounds(self) -> dict[Tensor, float]:
        """The bound of each weight."""
        return dict(zip(self.weights, self._upper, strict=True))

    @torch.no_grad()
    def project(self) -> None:
        """Move every entry that lies outside to the nearest bound, in place; one that is NaN stays so."""
        torch._foreach_clamp_max_(self.weights, self._upper)
        torch._foreach_clamp_min_(self.weights, self._lower)


def _divisors(name: str, block: DynamicBlock, config: OptimizerConfig) -> dict[Tensor, float]:
    """For each weight of the controls that is bound, the divisor of its bound."""
    lengths = _longest_steps(name, block) if "step" in config.box_scale else [1.0] * len(block.controls)
    found: dict[Tensor, float] = {}
    for layer, length in zip(block.controls.layers, lengths, strict=True):
        rows = kernels_of(layer)
        for weight_name, weight in layer.named_parameters():
            if config.box_kernels_only and weight_name not in rows:
                continue
            divisor = length
            if weight_name in rows:
                row = rows[weight_name]
                divisor *= row.pixels if "pixels" in config.box_scale else 1
                divisor *= row.channels if "channels" in config.box_scale else 1
            found[weight] = divisor
    return found


def _longest_steps(name: str, block: DynamicBlock) -> list[float]:
    """For each control the longest step that reads it; where none does, the longest of the block."""
    if isinstance(block.integrator, Adaptive):
        raise ConfigurationError(
            f"optimizer.box_scale step needs steps of given lengths, but {block.integrator.name} of the block {name!r} "
            "chooses its own; leave out step, or use an integrator on a grid"
        )
    sizes = block.times.sizes
    longest = [0.0] * len(block.controls)
    for step, size in enumerate(sizes):
        for index in block.field.controls_read([step], block.integrator.reads):
            longest[index] = max(longest[index], size)
    return [length or max(sizes) for length in longest]


def largest_within(bound: float, dtype: torch.dtype) -> float:
    """The largest number of a type that is no larger than ``bound``: one rounded up would lie outside."""
    rounded = torch.tensor(bound, dtype=dtype)
    if rounded.item() > bound:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return float(rounded.item())
