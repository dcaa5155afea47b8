"""The symmetric layer of parabolic networks."""

import math

from torch import Tensor

from dynamicblocks.layers.activations import ActivationSpec, make_activation, slopes_of
from dynamicblocks.layers.boundary import conv, conv_adjoint
from dynamicblocks.layers.norms import NormSpec, left_out, make_norm
from dynamicblocks.layers.one_kernel import OneKernel, check_sign, widened
from dynamicblocks.layers.operator_norm import operator_norm
from dynamicblocks.layers.spectrum import Spectrum


class Symmetric(OneKernel):
    """F(y) = -K^T a(N(K y + b1)) + b2, one shared kernel K (Ruthotto & Haber 2018, arXiv:1804.04272).

    K^T is the exact adjoint of K under the boundary condition, so for a monotone activation, no normalisation and no
    boundary of its own the Jacobian is symmetric negative semi-definite: a network of such layers diffuses.
    Forward Euler is stable for h |K|^2 <= 2, if the slope of the activation is at most 1
    (:func:`dynamicblocks.step_limit`).

    Shapes:
        (batch, width, H, W) -> the same; (batch, width, L) or (batch, width, D, H, W) with ``dims`` 1 or 3.

    Args:
        width: number of channels of the state.
        hidden: number of channels of K y; the width if None.
        norm, activation: names or factories.
        boundary: zeros, replicate, reflect or circular.
        bias: whether to learn b1 and b2.
        kernel_size: odd.
        groups: parts of the channels, of state and K y, that do not read each other.
        sign: -1, or 1 for +K^T a(N(K y + b1)) + b2, which does not diffuse (it stands in semi-implicit networks).
        zero_mean: whether each slice of K is used without its mean over the k^dims entries, so that constants are not
            seen away from the boundary.
        dims: 1 for signals, 2 for images, 3 for volumes.

    Raises:
        ConfigurationError: an option that cannot be.

    >>> import torch
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
        groups: int = 1,
        sign: int = -1,
        zero_mean: bool = False,
        dims: int = 2,
    ) -> None:
        super().__init__(
            width,
            hidden,
            boundary=boundary,
            bias=bias,
            kernel_size=kernel_size,
            groups=groups,
            zero_mean=zero_mean,
            dims=dims,
        )
        self.sign = check_sign(sign)
        self.norm = make_norm(norm, self.hidden, dims=dims)
        self.activation = make_activation(activation)
        self.reset_parameters()

    def forward(self, y: Tensor) -> Tensor:
        kernel = self.kernel
        inside = self.activation(self.norm(self.there(y, kernel)))
        return self.back(inside, kernel if self.sign > 0 else -kernel)

    def spectrum(self, size: tuple[int, ...]) -> Spectrum:
        """Eigenvalues between 0 and -s |K|^2, with s the greatest slope of the activation; up to s |K|^2 for sign 1."""
        norm = self._norm_of(size, widened(self.kernel))
        slopes = slopes_of(self.activation, self.hidden)
        bound, sign = slopes.greatest * norm**2, "-" if self.sign < 0 else ""
        return Spectrum(
            (-bound, 0.0) if self.sign < 0 else (0.0, bound),
            gradient=slopes.least >= 0,
            about=f"{sign}K^T D K with |K| = {norm:.6g} and slopes D up to {slopes.greatest:.4g}",
            notes=tuple(filter(None, (slopes.note, left_out(self.norm)))),
        )


def linear_frequency(first: Symmetric, second: Symmetric, size: tuple[int, ...]) -> float | None:
    """|K1 K2^T| with slopes: the fastest oscillation of two symmetric layers that drive each other, if both are linear.

    The layers have the same number of channels; ``size`` is that of the state behind them. None where one bends.
    """
    slopes = [slopes_of(layer.activation, layer.hidden) for layer in (first, second)]
    if any(each.greatest != each.least for each in slopes):
        return None
    one, other = widened(first.kernel), widened(second.kernel)

    def apply(z: Tensor) -> Tensor:
        shared = conv_adjoint(z, other, None, second.boundary, second.groups)
        return conv(shared, one, None, first.boundary, first.groups)

    def adjoint(z: Tensor) -> Tensor:
        shared = conv_adjoint(z, one, None, first.boundary, first.groups)
        return conv(shared, other, None, second.boundary, second.groups)

    found = operator_norm(apply, adjoint, (1, second.hidden, *size), one.device)
    return found * math.sqrt(abs(slopes[0].greatest * slopes[1].greatest))
