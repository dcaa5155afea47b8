"""How the weights of a network are drawn."""

import math
from typing import Literal, TypeVar

from torch import nn

from dynamicblocks.errors import unknown_name

Initial = Literal["torch", "he"]
Net = TypeVar("Net", bound=nn.Module)


def initialised(net: Net, initial: str) -> Net:
    """``net`` with its convolutions drawn as asked: ``torch`` leaves PyTorch's own draw.

    ``he``: kernels normal with variance 2 / (k^dims out_channels), biases zero (He et al. 2015, by fan-out).
    """
    if initial not in ("torch", "he"):
        raise unknown_name("initialisation", initial, ("torch", "he"))
    if initial == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return net
