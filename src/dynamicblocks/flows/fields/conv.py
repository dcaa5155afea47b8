"""The field of images: convolutions that read the time, with their Jacobian in forward mode."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.fields.activations import activation_named
from dynamicblocks.flows.fields.condition import Condition, TimeName
from dynamicblocks.times import check_count

KERNEL = 3


class ConvField(nn.Module):
    """v(t, x): convolutions h <- phi(sigmoid(G c + g) * (K h + b) + S c) with c the time and the context; the last
    without phi, and zero at first, so that an untrained flow leaves images as they are.

    Gates and shifts are of whole channels. Images keep their size at each layer, by zeros around them. Tangents go
    through the same convolutions as the state, in one call a layer.

    Source: FFJORD (Grathwohl et al. 2019); the last layer, RNODE (Finlay et al. 2020).

    Args:
        shape: of an image, (channels, height, width).
        hidden: channels of the hidden layers.
        activation: phi: softplus, tanh, silu, elu, selu.
        context: numbers of context of an image.
        horizon: the last time.
        time: how the layers read it, see :class:`Condition`.
        patch: convolutions see patches of so many pixels a side as one place of as many channels, for patch^2 less work
            at each layer; the state keeps its shape.

    Raises:
        ConfigurationError: the shape is not that of an image, or its sides are no multiples of ``patch``.

    >>> field = ConvField((1, 8, 8), hidden=(16, 16), context=10)
    >>> slope, products = field.jvp(torch.tensor(0.5), torch.zeros(5, 1, 8, 8), torch.ones(2, 5, 1, 8, 8),
    ...                             torch.zeros(5, 10))
    >>> slope.shape, products.shape
    (torch.Size([5, 1, 8, 8]), torch.Size([2, 5, 1, 8, 8]))
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "softplus",
        context: int = 0,
        horizon: float = 1.0,
        time: TimeName = "linear",
        patch: int = 1,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape(shape)
        for each in hidden:
            check_count(each, "hidden")
        check_count(patch, "patch")
        if height % patch or width % patch:
            raise ConfigurationError(
                f"images of {height} x {width} pixels do not divide into patches of {patch} x {patch}; take a patch "
                "that divides both sides, such as 1"
            )
        self.condition = Condition(time, context, horizon)
        self.context_width, self.shape, self.patch = context, (channels, height, width), patch
        self.activation = activation
        self._phi = activation_named(activation)
        ends = channels * patch**2
        widths = (ends, *hidden, ends)
        self.layers = nn.ModuleList(nn.Conv2d(*pair, KERNEL, padding=KERNEL // 2) for pair in pairwise(widths))
        self.outputs = list(widths[1:])
        # Of all layers at once, as in the dense fields.
        self.shift = nn.Linear(self.condition.width, sum(self.outputs), bias=False)
        self.gate = nn.Linear(self.condition.width, sum(self.outputs))
        self._begin()

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The slope, (n, channels, height, width)."""
        *hidden, last = self._convolutions
        shifts, gates = self._conditioned(t, context)
        h = self._patched(x)
        for layer, shift, gate in zip(hidden, shifts, gates, strict=False):
            h = self._phi.value(torch.addcmul(shift, layer(h), gate))
        return self._whole(torch.addcmul(shifts[-1], last(h), gates[-1]))

    def jvp(self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, *shape), and df/dx times each of the ``tangents`` (k, n, *shape)."""
        *hidden, last = self._convolutions
        shifts, gates = self._conditioned(t, context)
        # The state first, then the tangents: (1 + k, n, channels, height, width).
        both = torch.cat((x[None], tangents)).flatten(0, 1)
        h, d = _apart(self._patched(both), len(x))
        for layer, shift, gate in zip(hidden, shifts, gates, strict=False):
            h, d = _linear(layer, h, d)
            a = torch.addcmul(shift, h, gate)
            h = self._phi.value(a)
            d = d * (self._phi.slope(a, h) * gate)
        h, d = _linear(last, h, d)
        slope = torch.addcmul(shifts[-1], h, gates[-1])
        products = d * gates[-1]
        return self._whole(slope), self._whole(products.flatten(0, 1)).reshape(tangents.shape)

    @torch.no_grad()
    def _begin(self) -> None:
        """Weights at first: images go through the hidden layers as large as they came, and move nothing.

        Gates begin at a half, and softplus halves what is near zero. With PyTorch's own weights a seventh would be left
        behind each layer, and hardly any gradient.
        """
        *hidden, last = self._convolutions
        zero = torch.zeros(())
        kept = 0.5 * self._phi.slope(zero, self._phi.value(zero)).item()
        for layer in hidden:
            nn.init.normal_(layer.weight, std=1 / (kept * math.sqrt(layer.in_channels * KERNEL**2)))
        for each in (
            last.weight,
            self.shift.weight[-last.out_channels :],
            *(layer.bias for layer in self._convolutions),
        ):
            if each is not None:
                each.zero_()

    @property
    def _convolutions(self) -> list[nn.Conv2d]:
        return cast(list[nn.Conv2d], list(self.layers))

    def _conditioned(self, t: Tensor, context: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Shifts and gates of each layer: (channels, 1, 1), or (n, channels, 1, 1)."""
        c = self.condition(t, context)
        both = (self.shift(c), torch.sigmoid(self.gate(c)))
        shifts, gates = ([each[..., None, None] for each in made.split(self.outputs, -1)] for made in both)
        return shifts, gates

    def _patched(self, x: Tensor) -> Tensor:
        return x if self.patch == 1 else functional.pixel_unshuffle(x, self.patch)

    def _whole(self, x: Tensor) -> Tensor:
        return x if self.patch == 1 else functional.pixel_shuffle(x, self.patch)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, activation={self.activation!r}, patch={self.patch}"


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width.

    Raises:
        ConfigurationError: they are others than three numbers above zero.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigurationError(f"an image has the shape (channels, height, width), got {tuple(shape)}")
    channels, height, width = (int(each) for each in shape)
    return channels, height, width


def _apart(both: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The state (n, ...), and the tangents (k, n, ...)."""
    return both[:number], both[number:].view(-1, number, *both.shape[1:])


def _linear(layer: nn.Conv2d, h: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer makes of the state, and of tangents, which its bias does not move."""
    made, pushed = _apart(
        functional.conv2d(torch.cat((h, d.flatten(0, 1))), layer.weight, None, padding=layer.padding), len(h)
    )
    assert layer.bias is not None
    return made + layer.bias[:, None, None], pushed
