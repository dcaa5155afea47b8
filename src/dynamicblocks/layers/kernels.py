"""Which weights of a layer are kernels, and what a row of one sums over."""

import math
import re
from typing import NamedTuple

from torch import nn

# Normalisations are known by their names, for those of a caller's own derive from nothing in common.
_NORM = re.compile(r"Norm(\dd)?$")


class Row(NamedTuple):
    """What the entries of one output of a kernel are: so many pixels of so many input channels."""

    pixels: int
    channels: int


def kernels_of(layer: nn.Module) -> dict[str, Row]:
    """The rows of the weights that are kernels, by name: more than one dimension, and no weights of a normalisation.

    A matrix is a kernel of one pixel. Grouped kernels see the channels of their group.

    >>> kernels_of(nn.Sequential(nn.Conv2d(8, 4, 3, groups=2), nn.LayerNorm([4, 5, 5]), nn.Linear(5, 2)))
    {'0.weight': Row(pixels=9, channels=4), '2.weight': Row(pixels=1, channels=5)}
    """
    found = {}
    for name, weight in layer.named_parameters():
        owner = layer.get_submodule(name.rpartition(".")[0])
        if weight.ndim > 1 and not is_norm(owner):
            channels = weight.shape[1]
            if isinstance(owner, nn.modules.conv._ConvTransposeNd):
                channels = weight.shape[0] // owner.groups
            found[name] = Row(math.prod(weight.shape[2:]), channels)
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation: its class, or one that it derives from, is named so."""
    return any(_NORM.search(kind.__name__) for kind in type(module).__mro__)
