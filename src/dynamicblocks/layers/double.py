"""The layer of two kernels."""

from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec, make_activation
from dynamicblocks.layers.boundary import CONVOLUTIONS
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.norms import NormSpec, make_norm
from dynamicblocks.times import check_count


class Double(nn.Module):
    """F(y) = K2 a(N(K1 y + b1)) + b2, two kernels with nothing in common (Ruthotto & Haber 2018, arXiv:1804.04272).

    The symmetric layer is the one with K2 = -K1^T. Without such a tie nothing is known of the eigenvalues of the
    Jacobian, so that there is no limit of the step.

    Shapes:
        (batch, width, H, W) -> the same; (batch, width, L) or (batch, width, D, H, W) with ``dims`` 1 or 3.

    Args:
        width: number of channels of the state.
        hidden: number of channels of K1 y; the width if None.
        norm, activation: names or factories.
        boundary: zeros, replicate, reflect or circular.
        bias: whether to learn b1 and b2.
        kernel_size: odd.
        groups: parts of the channels, of state and K1 y, that do not read each other.
        dims: 1 for signals, 2 for images, 3 for volumes.

    Raises:
        ConfigurationError: an option that cannot be.

    >>> import torch
    >>> Double(4, hidden=8)(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 4, 6, 6])
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
        groups: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[check_dims(dims)]
        self.dims = dims
        self.width = check_count(width, "width")
        hidden = width if hidden is None else check_count(hidden, "hidden")
        self.conv1 = convolution(width, hidden, kernel_size, boundary=boundary, bias=bias, groups=groups)
        self.norm = make_norm(norm, hidden, dims=dims)
        self.activation = make_activation(activation)
        self.conv2 = convolution(hidden, width, kernel_size, boundary=boundary, bias=bias, groups=groups)

    def reset_parameters(self) -> None:
        """Its modules reset themselves."""

    def forward(self, y: Tensor) -> Tensor:
        return self.conv2(self.activation(self.norm(self.conv1(y))))
