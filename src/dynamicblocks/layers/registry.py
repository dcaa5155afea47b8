"""The layers by name."""

from torch import nn

from dynamicblocks.registry import Registry

layers: Registry[nn.Module] = Registry("layer")
