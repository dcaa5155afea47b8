"""The penalty on the change of weights in time."""

import torch
from torch import Tensor, nn

from dynamicblocks.network import named_blocks
from dynamicblocks.training.config import OptimizerConfig


class SmoothnessPenalty:
    """alpha times the sum over all blocks of :meth:`~dynamicblocks.Controls.smoothness`.

    Args:
        net: the blocks of which it is.
        config: weight alpha, kind, and whether of kernels only.

    Zero where a network has no weights in time.

    Raises:
        ConfigurationError: a basis has no slopes.
    """

    def __init__(self, net: nn.Module, config: OptimizerConfig) -> None:
        self.controls = [block.controls for block in named_blocks(net).values()]
        self.weight, self.kind = config.smoothness, config.smoothness_kind
        self.kernels_only = config.smoothness_kernels_only
        for controls in self.controls:
            controls.basis.distances()

    def __call__(self, device: torch.device) -> Tensor:
        """The penalty as it is now."""
        # Of controls without weights it is on no device in particular.
        total = torch.zeros((), device=device)
        for controls in self.controls:
            total = total + controls.smoothness(self.kind, self.kernels_only).to(device)
        return self.weight * total
