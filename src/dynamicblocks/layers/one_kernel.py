"""What layers with one kernel, which acts there and back, have in common."""

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.boundary import (
    check_boundary,
    check_groups,
    check_kernel_size,
    conv,
    conv_adjoint,
    init_like_convolution,
)
from dynamicblocks.layers.dimensions import AXES, check_dims, extent
from dynamicblocks.layers.operator_norm import Linear, operator_norm
from dynamicblocks.times import check_count


class OneKernel(nn.Module):
    """A kernel K from ``width`` to ``hidden`` channels under a boundary condition, its adjoint, and their biases.

    Args:
        width, hidden: channels of y and of K y.
        boundary: zeros, replicate, reflect or circular.
        bias: whether to learn one after K and one after its adjoint.
        kernel_size: odd.
        groups: both numbers of channels fall into so many parts, and each part of y is read by one part of K y alone.
        zero_mean: whether each slice of K is used without its mean over the k^dims entries.
        dims: 1 for signals, 2 for images, 3 for volumes.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None,
        *,
        boundary: str,
        bias: bool,
        kernel_size: int,
        groups: int,
        zero_mean: bool,
        dims: int,
    ) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.width = check_count(width, "width")
        self.hidden = width if hidden is None else check_count(hidden, "hidden")
        size = check_kernel_size(kernel_size)
        self.boundary = check_boundary(boundary)
        self.groups = check_groups(groups, width, self.hidden)
        self.zero_mean = zero_mean
        self.weight = nn.Parameter(torch.empty(self.hidden, width // groups, *(size,) * dims))
        self.bias_inside = nn.Parameter(torch.empty(self.hidden)) if bias else None
        self.bias_outside = nn.Parameter(torch.empty(width)) if bias else None

    def reset_parameters(self) -> None:
        """As a convolution of PyTorch; children reset themselves."""
        init_like_convolution(self.weight, self.bias_inside, self.bias_outside)

    @property
    def kernel(self) -> Tensor:
        """K as it is applied."""
        if not self.zero_mean:
            return self.weight
        return self.weight - self.weight.mean(tuple(range(2, self.weight.ndim)), keepdim=True)

    def there(self, y: Tensor, kernel: Tensor) -> Tensor:
        """K y + b1."""
        return conv(y, kernel, self.bias_inside, self.boundary, self.groups)

    def back(self, z: Tensor, kernel: Tensor) -> Tensor:
        """K^T z + b2, of the exact adjoint under the boundary condition."""
        return conv_adjoint(z, kernel, self.bias_outside, self.boundary, self.groups)

    def _norm_of(self, size: tuple[int, ...], kernel: Tensor) -> float:
        """|K| on states of a size, without the biases."""
        boundary, groups = self.boundary, self.groups
        return self._stretch(
            size,
            kernel,
            lambda y: conv(y, kernel, None, boundary, groups),
            lambda z: conv_adjoint(z, kernel, None, boundary, groups),
        )

    def _stretch(self, size: tuple[int, ...], kernel: Tensor, apply: Linear, adjoint: Linear) -> float:
        """The norm of a map of states of a size that a kernel in double precision makes."""
        least = kernel.shape[-1] // 2 + (self.boundary == "reflect")
        if len(size) != self.dims or (self.boundary in ("reflect", "circular") and min(size) < least):
            raise ConfigurationError(
                f"{type(self).__name__} with boundary={self.boundary!r} takes {AXES[self.dims]} of at least {least} "
                f"pixels, got {extent(size)}"
            )
        return operator_norm(apply, adjoint, (1, self.width, *size), kernel.device)


def widened(kernel: Tensor) -> Tensor:
    """A copy in double precision, on the CPU where its device has none."""
    return kernel.detach().to("cpu" if kernel.device.type == "mps" else kernel.device, torch.float64)


def check_sign(sign: int) -> int:
    """Return ``sign``, or raise if it is neither 1 nor -1."""
    if isinstance(sign, bool) or sign not in (1, -1):
        raise ConfigurationError(f"sign must be 1 or -1, got {sign!r}")
    return sign
