"""The antisymmetric layer, whose linear part neither grows nor decays."""

import torch
from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec, make_activation
from dynamicblocks.layers.boundary import conv, conv_adjoint
from dynamicblocks.layers.norms import NormSpec, make_norm
from dynamicblocks.layers.one_kernel import OneKernel
from dynamicblocks.times import check_amount


class Antisymmetric(OneKernel):
    """F(y) = a(N((K - K^T) y + b)) - damping y (Chang et al. 2018, arXiv:1709.03698; Haber & Ruthotto 2017).

    K^T is the exact adjoint of K under the boundary condition, so that A = K - K^T has imaginary eigenvalues alone: for
    a monotone activation, no normalisation and no damping so has the Jacobian. Forward Euler is unstable for every
    step; the two-step midpoint method is stable below 1 / |A| (:func:`dynamicblocks.step_limit`).

    Shapes:
        (batch, width, H, W) -> the same; (batch, width, L) or (batch, width, D, H, W) with ``dims`` 1 or 3.

    Args:
        width: number of channels of the state.
        norm, activation: names or factories.
        boundary: zeros, replicate, reflect or circular.
        bias: whether to learn b.
        damping: zero or more; it moves all eigenvalues to the left, for methods that need it.
        kernel_size: odd.
        groups: parts of the channels that do not read each other.
        dims: 1 for signals, 2 for images, 3 for volumes.

    Raises:
        ConfigurationError: an option that cannot be.

    >>> layer = Antisymmetric(4, norm="none", activation="none", bias=False)
    >>> y = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    >>> abs(torch.sum(y * layer.double()(y)).item()) < 1e-12
    True
    """

    def __init__(
        self,
        width: int,
        *,
        norm: NormSpec = "tv",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = True,
        damping: float = 0.0,
        kernel_size: int = 3,
        groups: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__(
            width,
            None,
            boundary=boundary,
            bias=False,
            kernel_size=kernel_size,
            groups=groups,
            zero_mean=False,
            dims=dims,
        )
        self.bias_inside = nn.Parameter(torch.empty(width)) if bias else None
        self.damping = check_amount(damping, "damping")
        self.norm = make_norm(norm, width, dims=dims)
        self.activation = make_activation(activation)
        self.reset_parameters()

    def forward(self, y: Tensor) -> Tensor:
        changed = self.activation(self.norm(self.operator(y, self.bias_inside)))
        return torch.add(changed, y, alpha=-self.damping) if self.damping else changed

    def operator(self, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """(K - K^T) y + b."""
        kernel = self.weight
        if self.boundary in ("zeros", "circular") or kernel.shape[-1] == 1:
            # There the adjoint is a convolution too, so that both are one.
            return conv(y, self.kernel, bias, self.boundary, self.groups)
        adjoint = conv_adjoint(y, kernel, None, self.boundary, self.groups)
        return conv(y, kernel, bias, self.boundary, self.groups) - adjoint

    @property
    def kernel(self) -> Tensor:
        """The kernel of K - K^T, which away from the boundary is a convolution."""
        parts = torch.unflatten(self.weight, 0, (self.groups, -1))
        adjoint = parts.transpose(1, 2).flip(tuple(range(3, parts.ndim)))
        return (parts - adjoint).flatten(0, 1)
