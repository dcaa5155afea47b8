"""The antisymmetric layer, whose linear part neither grows nor decays."""

import torch
from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec, make_activation, slopes_of
from dynamicblocks.layers.boundary import conv, conv_adjoint
from dynamicblocks.layers.norms import NormSpec, left_out, make_norm
from dynamicblocks.layers.one_kernel import OneKernel, widened
from dynamicblocks.layers.spectrum import Spectrum
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
        changed = self.activation(self.norm(self._operator(y, self.weight, self.bias_inside)))
        return torch.add(changed, y, alpha=-self.damping) if self.damping else changed

    def _operator(self, y: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        """(K - K^T) y + b."""
        boundary, groups = self.boundary, self.groups
        if boundary in ("zeros", "circular") or kernel.shape[-1] == 1:
            # There the adjoint is a convolution too, and both together take a third to a half of the time of two.
            return conv(y, antisymmetrised(kernel, groups), bias, boundary, groups)
        return conv(y, kernel, bias, boundary, groups) - conv_adjoint(y, kernel, None, boundary, groups)

    @property
    def kernel(self) -> Tensor:
        """The kernel of K - K^T, which away from the boundary is a convolution."""
        return antisymmetrised(self.weight, self.groups)

    def spectrum(self, size: tuple[int, ...]) -> Spectrum:
        """Imaginary eigenvalues up to s |A|, with s the greatest slope of the activation, moved by the damping."""
        kernel = widened(self.weight)
        norm = self._stretch(size, kernel, lambda y: self._operator(y, kernel), lambda z: -self._operator(z, kernel))
        slopes = slopes_of(self.activation, self.width)
        damped = f" - {self.damping:g}" if self.damping else ""
        return Spectrum(
            (-self.damping, -self.damping),
            (slopes.greatest * norm,),
            about=f"D A{damped} with A = K - K^T, |A| = {norm:.6g} and slopes D up to {slopes.greatest:.4g}",
            notes=tuple(filter(None, (slopes.note, left_out(self.norm)))),
        )


def antisymmetrised(kernel: Tensor, groups: int) -> Tensor:
    """The kernel of K - K^T: from each the same with the channels of its group exchanged, mirrored at its centre."""
    parts = torch.unflatten(kernel, 0, (groups, -1))
    adjoint = parts.transpose(1, 2).flip(tuple(range(3, parts.ndim)))
    return (parts - adjoint).flatten(0, 1)
