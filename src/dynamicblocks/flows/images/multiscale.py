"""Flows of several scales: half the numbers are noise already before the coarser scale."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.fields.conv import image_shape
from dynamicblocks.flows.images.squeeze import FACTOR, Squeeze, Unsqueeze
from dynamicblocks.flows.transform import Compose, Transform, Transformed
from dynamicblocks.times import check_count


class OnHalf(Transform):
    """A transform of the first half of the channels; the others stay as they are.

    Args:
        transform: of images with half the channels.

    >>> from dynamicblocks.flows import Standardise
    >>> OnHalf(Standardise(0.0, 2.0)).to_base(torch.ones(1, 2, 1, 1)).value.flatten()
    tensor([0.5000, 1.0000])
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        half, rest = x.chunk(2, dim=1)
        found = self.transform.to_base(half, context, generator)
        return Transformed(torch.cat((found.value, rest), dim=1), found.log_det, found.penalties)

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        half, rest = z.chunk(2, dim=1)
        found = self.transform.to_data(half, context, generator)
        return Transformed(torch.cat((found.value, rest), dim=1), found.log_det, found.penalties)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        half, rest = x.chunk(2, dim=1)
        return torch.cat((self.transform.encode(half, context), rest), dim=1)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        half, rest = z.chunk(2, dim=1)
        return torch.cat((self.transform.decode(half, context), rest), dim=1)


class Multiscale(Compose):
    """Flows, a squeeze, flows, and the same again with half the channels, while the other half goes to the base.

    Each scale but the last is ``flows`` transforms of images (c, h, w), a squeeze, and ``flows`` of (4c, h/2, w/2), of
    which 2c channels are the next scale's; the last is ``flows`` alone. What comes out has the shape of the images: the
    numbers that left early are put back where their pixels are.

    Source: RealNVP (Dinh et al. 2017); so built, FFJORD (Grathwohl et al. 2019).

    Args:
        shape: of an image, (channels, height, width).
        make: a transform for images of a shape.
        scales: how many; 1 squeezes nothing.
        flows: transforms before and after each squeeze.

    Raises:
        ConfigurationError: the sides are not even where they are to be halved.

    >>> from dynamicblocks.flows import Standardise
    >>> shapes = []
    >>> def make(shape):
    ...     shapes.append(shape)
    ...     return Standardise(0.0, 1.0)
    >>> flow = Multiscale((1, 28, 28), make, scales=3)
    >>> shapes
    [(1, 28, 28), (4, 14, 14), (2, 14, 14), (8, 7, 7), (4, 7, 7)]
    >>> flow.encode(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        shape: Sequence[int],
        make: Callable[[tuple[int, int, int]], Transform],
        *,
        scales: int = 1,
        flows: int = 1,
    ) -> None:
        channels, height, width = image_shape(shape)
        check_count(scales, "scales")
        check_count(flows, "flows")
        most = most_scales(shape)
        if scales > most:
            raise ConfigurationError(
                f"images of {height} x {width} pixels have at most {most} scale{'s' * (most > 1)}, for each but the "
                f"last halves the sides, and {height >> (most - 1)} x {width >> (most - 1)} has an odd one; got "
                f"{scales} scales. Take fewer, or pad or crop the images"
            )
        parts = [make((channels, height, width)) for _ in range(flows)]
        if scales > 1:
            height, width = height // FACTOR, width // FACTOR
            squeezed = [make((4 * channels, height, width)) for _ in range(flows)]
            coarser = Multiscale((2 * channels, height, width), make, scales=scales - 1, flows=flows)
            parts += [Squeeze(), *squeezed, OnHalf(coarser), Unsqueeze()]
        super().__init__(parts)


def most_scales(shape: Sequence[int]) -> int:
    """How many scales images of a shape can have: one, and one for each time that both sides can be halved.

    >>> [most_scales((1, side, side)) for side in (7, 8, 28, 32)]
    [1, 4, 3, 6]
    """
    _, height, width = image_shape(shape)
    most = 1
    while height % FACTOR == 0 and width % FACTOR == 0:
        most, height, width = most + 1, height // FACTOR, width // FACTOR
    return most
