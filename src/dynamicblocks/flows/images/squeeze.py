"""Pixels to channels and back."""

import torch
from torch import Tensor
from torch.nn import functional

from dynamicblocks.errors import ArgumentError
from dynamicblocks.flows.transform import Transform, Transformed

FACTOR = 2


class Squeeze(Transform):
    """Space to depth: each patch of 2 x 2 pixels becomes one of four times the channels, which keeps volumes.

    >>> Squeeze().to_base(torch.zeros(5, 1, 28, 28)).value.shape
    torch.Size([5, 4, 14, 14])
    """

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return _unchanged(squeezed(x))

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return _unchanged(functional.pixel_shuffle(z, FACTOR))


class Unsqueeze(Transform):
    """The other way round: from depth to space towards the base."""

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return _unchanged(functional.pixel_shuffle(x, FACTOR))

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return _unchanged(squeezed(z))


def squeezed(x: Tensor) -> Tensor:
    """(n, 4 channels, height / 2, width / 2).

    Raises:
        ArgumentError: a side is odd.
    """
    if x.shape[-1] % FACTOR or x.shape[-2] % FACTOR:
        raise ArgumentError(f"patches of 2 x 2 pixels need even sides, got images of {x.shape[-2]} x {x.shape[-1]}")
    return functional.pixel_unshuffle(x, FACTOR)


def _unchanged(value: Tensor) -> Transformed:
    return Transformed(value, value.new_zeros(len(value)))
