"""Signals, images and volumes: what depends on the number of dimensions, in one place."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError

AXES: Mapping[int, str] = {1: "length", 2: "height, width", 3: "depth, height, width"}
"""The names of the axes behind batch and channels."""
INPUTS: Mapping[int, str] = {1: "signals", 2: "images", 3: "volumes"}

PLAIN: Mapping[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: Mapping[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS: Mapping[str, Mapping[int, type[nn.Module]]] = {
    "average": {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d},
    "max": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
}
CONVOLVE: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def check_dims(dims: int) -> int:
    """Return ``dims``, or raise if it is none of 1, 2 and 3.

    >>> check_dims(3)
    3
    """
    if isinstance(dims, bool) or not isinstance(dims, int) or dims not in AXES:
        raise ConfigurationError(f"dims must be 1 (signals), 2 (images) or 3 (volumes), got {dims!r}")
    return dims


def shape_of(dims: int, width: int) -> str:
    """How a batch of so many channels is laid out.

    >>> shape_of(1, 16)
    '(batch, 16, length)'
    """
    return f"(batch, {width}, {AXES[dims]})"


def extent(numbers: tuple[int, ...]) -> str:
    """The sizes along all axes.

    >>> extent((2, 3))
    '2 x 3'
    """
    return " x ".join(map(str, numbers))
