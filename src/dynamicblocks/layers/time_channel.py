"""Time as a channel: layers that read it beside the state, at every pixel."""

import torch
from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec, make_activation
from dynamicblocks.layers.boundary import CONVOLUTIONS
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.norms import NormSpec, make_norm
from dynamicblocks.times import check_count


class TimeChannel(nn.Module):
    """F(t, y) = G(t, y_1, ..., y_n): a module over the channels of the state, with the time as one before them.

    Shapes:
        (batch, channels, *) -> what ``module`` makes of (batch, 1 + channels, *).

    Args:
        module: takes one channel more than the state has.

    >>> TimeChannel(nn.Identity())(0.5, torch.zeros(1, 1, 2)).flatten().tolist()
    [0.5, 0.5, 0.0, 0.0]
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        return self.module(with_time(t, y))


def with_time(t: float | Tensor, y: Tensor) -> Tensor:
    """``y`` with one channel more before the others, which holds the time everywhere.

    >>> with_time(2.0, torch.zeros(1, 1, 1)).flatten().tolist()
    [2.0, 0.0]
    """
    # A product takes numbers and tensors on any device alike, waits for none, and has the gradient of the time.
    return torch.cat([(torch.ones_like(y[:, :1]) * t).to(y.dtype), y], dim=1)


class TimedDouble(nn.Module):
    """F(t, y) = N3 K2 (t, a(N2 K1 (t, a(N1 y)))): the field of the ODE-Net (Chen et al. 2018, arXiv:1806.07366).

    Two convolutions that read the time as a channel, each after norm and activation, and a norm at the end.

    Shapes:
        (batch, width, H, W) -> (batch, outputs, H, W); alike for other ``dims``.

    Args:
        width: number of channels of the state.
        hidden: number of channels between the convolutions; the width if None.
        outputs: number of channels of what it returns; the width if None.
        norm, activation: names or factories.
        boundary: zeros, replicate, reflect or circular.
        bias: whether the convolutions have one.
        kernel_size: odd.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> TimedDouble(8)(0.5, torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int | None = None,
        outputs: int | None = None,
        norm: NormSpec = "group",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = True,
        kernel_size: int = 3,
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[check_dims(dims)]
        self.dims = dims
        self.width = check_count(width, "width")
        hidden = width if hidden is None else check_count(hidden, "hidden")
        outputs = width if outputs is None else check_count(outputs, "outputs")
        self.norm1 = make_norm(norm, width, dims=dims)
        self.act1 = make_activation(activation)
        self.conv1 = TimeChannel(convolution(width + 1, hidden, kernel_size, boundary=boundary, bias=bias))
        self.norm2 = make_norm(norm, hidden, dims=dims)
        self.act2 = make_activation(activation)
        self.conv2 = TimeChannel(convolution(hidden + 1, outputs, kernel_size, boundary=boundary, bias=bias))
        self.norm3 = make_norm(norm, outputs, dims=dims)

    def reset_parameters(self) -> None:
        """Its modules reset themselves."""

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        inner = self.conv1(t, self.act1(self.norm1(y)))
        return self.norm3(self.conv2(t, self.act2(self.norm2(inner))))
