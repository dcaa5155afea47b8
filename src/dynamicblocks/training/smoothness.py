"""The penalty on the change of weights in time."""

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.kernels import kernels_of
from dynamicblocks.network import named_blocks
from dynamicblocks.training.config import OptimizerConfig


class SmoothnessPenalty:
    """alpha times the sum over all blocks of :meth:`~dynamicblocks.Controls.smoothness`.

    Args:
        net: the blocks of which it is.
        config: weight alpha, kind, and whether of kernels only.

    Raises:
        ConfigurationError: the blocks have nothing that could vary in time, or a basis no slopes.
    """

    def __init__(self, net: nn.Module, config: OptimizerConfig) -> None:
        self.controls = [block.controls for block in named_blocks(net).values()]
        self.weight, self.kind = config.smoothness, config.smoothness_kind
        self.kernels_only = config.smoothness_kernels_only
        # A network without blocks is trained by any recipe, as the plain one beside others.
        if self.controls and not any(_acts(controls, self.kernels_only) for controls in self.controls):
            what = "a kernel" if self.kernels_only else "weights"
            raise ConfigurationError(
                f"optimizer.smoothness is a penalty on weights that vary in time, but no dynamic block of the network "
                f"has {what} in its controls; leave it out, or take another model"
            )
        for controls in self.controls:
            controls.basis.distances()

    def __call__(self, device: torch.device) -> Tensor:
        """The penalty as it is now."""
        # Of controls without weights it is on no device in particular.
        parts = [controls.smoothness(self.kind, self.kernels_only).to(device) for controls in self.controls]
        return self.weight * torch.stack(parts).sum() if parts else torch.zeros((), device=device)


def _acts(controls: nn.Module, kernels_only: bool) -> bool:
    return bool(kernels_of(controls)) if kernels_only else any(True for _ in controls.parameters())
