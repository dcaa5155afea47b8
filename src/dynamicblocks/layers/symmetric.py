"""The symmetric layer of parabolic networks."""

import torch
from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec, make_activation
from dynamicblocks.layers.boundary import (
    check_boundary,
    check_kernel_size,
    conv,
    conv_adjoint,
    init_like_convolution,
)
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.norms import NormSpec, make_norm
from dynamicblocks.times import check_count


class Symmetric(nn.Module):
    """F(y) = -K^T a(N(K y + b1)) + b2, one shared kernel K (Ruthotto & Haber 2018, arXiv:1804.04272).

    K^T is the exact adjoint of K under the boundary condition, so for a monotone activation, no normalisation and no
    boundary of its own the Jacobian is symmetric negative semi-definite: a network of such layers diffuses.
    Forward Euler is stable for h |K|^2 <= 2.

    Shapes:
        (batch, width, H, W) -> the same; (batch, width, L) or (batch, width, D, H, W) with ``dims`` 1 or 3.

    Args:
        width: number of channels of the state.
        hidden: number of channels of K y; the width if None.
        norm, activation: names or factories.
        boundary: zeros, replicate, reflect or circular.
        bias: whether to learn b1 and b2.
        kernel_size: odd.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> layer = Symmetric(4, norm="none", activation="none", bias=False)
    >>> y = torch.randn(1, 4, 6, 6)
    >>> bool(torch.sum(y * layer(y)) <= 0)
    True
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int | None = None,
        norm: NormSpec = "tv",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = True,
        kernel_size: int = 3,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.width = check_count(width, "width")
        hidden = width if hidden is None else check_count(hidden, "hidden")
        size = check_kernel_size(kernel_size)
        self.boundary = check_boundary(boundary)
        self.weight = nn.Parameter(torch.empty(hidden, width, *(size,) * dims))
        self.bias_inside = nn.Parameter(torch.empty(hidden)) if bias else None
        self.bias_outside = nn.Parameter(torch.empty(width)) if bias else None
        self.norm = make_norm(norm, hidden, dims=dims)
        self.activation = make_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As a convolution of PyTorch; children reset themselves."""
        init_like_convolution(self.weight, self.bias_inside, self.bias_outside)

    def forward(self, y: Tensor) -> Tensor:
        inside = self.activation(self.norm(conv(y, self.weight, self.bias_inside, self.boundary)))
        return conv_adjoint(inside, -self.weight, self.bias_outside, self.boundary)
