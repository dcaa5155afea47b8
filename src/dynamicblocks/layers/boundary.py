"""Convolutions under a boundary condition, and their exact adjoints.

Padding is the boundary condition of the differential operator that a kernel stands for:
zeros (Dirichlet), replicate (Neumann), reflect (even mirror symmetry), circular (periodic).
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.layers.dimensions import CONVOLVE, TRANSPOSED
from dynamicblocks.times import check_count

Boundary = Literal["zeros", "replicate", "reflect", "circular"]
BOUNDARIES: tuple[Boundary, ...] = ("zeros", "replicate", "reflect", "circular")


def check_boundary(boundary: str) -> Boundary:
    """Return ``boundary``, or raise if it is none of the known conditions."""
    for known in BOUNDARIES:
        if boundary == known:
            return known
    raise unknown_name("boundary condition", boundary, BOUNDARIES)


def check_kernel_size(kernel_size: int) -> int:
    """Return ``kernel_size``, or raise: only odd kernels have a centre, so only they keep the shape."""
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigurationError(f"kernel_size must be odd and positive to keep the image size, got {kernel_size!r}")
    return kernel_size


def check_groups(groups: int, *channels: int) -> int:
    """Return ``groups``, or raise: each number of channels falls into so many equal parts.

    >>> check_groups(2, 4, 6)
    2
    """
    check_count(groups, "groups")
    for count in channels:
        if count % groups:
            raise ConfigurationError(f"groups must divide the channels before and after, got {groups} for {count}")
    return groups


class _SizeKeeping(nn.modules.conv._ConvNd):
    """What the three convolutions below share; the class of PyTorch's comes behind it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        boundary: str = "zeros",
        bias: bool = False,
        groups: int = 1,
    ) -> None:
        padding = check_kernel_size(kernel_size) // 2
        condition = check_boundary(boundary)
        check_count(stride, "stride")
        super().__init__(  # type: ignore[call-arg]
            check_count(in_channels, "in_channels"),
            check_count(out_channels, "out_channels"),
            kernel_size,  # type: ignore[arg-type]
            stride=stride,  # type: ignore[arg-type]
            padding=padding,  # type: ignore[arg-type]
            padding_mode=condition if padding else "zeros",
            bias=bias,
            groups=check_groups(groups, in_channels, out_channels),
        )


class Conv1d(_SizeKeeping, nn.Conv1d):
    """:class:`Conv2d` on signals.

    Shapes:
        (batch, in_channels, L) -> (batch, out_channels, ceil(L / stride)).
    """


class Conv2d(_SizeKeeping, nn.Conv2d):
    """A convolution whose padding keeps the image size (before the stride) under a named boundary condition.

    Shapes:
        (batch, in_channels, H, W) -> (batch, out_channels, ceil(H / stride), ceil(W / stride)).
    """


class Conv3d(_SizeKeeping, nn.Conv3d):
    """:class:`Conv2d` on volumes.

    Shapes:
        (batch, in_channels, D, H, W) -> (batch, out_channels, ceil(D / stride), ceil(H / stride), ceil(W / stride)).
    """


CONVOLUTIONS: Mapping[int, type[Conv1d | Conv2d | Conv3d]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}


def conv(y: Tensor, kernel: Tensor, bias: Tensor | None, boundary: str, groups: int = 1) -> Tensor:
    """K y + b: the kernel applied under a boundary condition, size kept; in as many dimensions as the kernel has."""
    dims, padding = kernel.ndim - 2, kernel.shape[-1] // 2
    if boundary == "zeros" or padding == 0:
        return CONVOLVE[dims](y, kernel, bias, padding=padding, groups=groups)
    return CONVOLVE[dims](F.pad(y, (padding,) * (2 * dims), mode=boundary), kernel, bias, groups=groups)


def conv_adjoint(z: Tensor, kernel: Tensor, bias: Tensor | None, boundary: str, groups: int = 1) -> Tensor:
    r"""K^T z + b, with K^T the exact adjoint of :func:`conv` under the same boundary condition.

    With K = C P (padding P, then convolution C without padding), K^T = P^T C^T: a transposed convolution onto the
    padded image, whose border is then added back to the pixels it was copied from.

    Shapes:
        z (batch, out_channels, *), kernel (out_channels, in_channels / groups, k, ...) -> (batch, in_channels, *), with
        one k for each of the one, two or three axes *.

    >>> y, z, kernel = torch.randn(1, 2, 5, 5), torch.randn(1, 3, 5, 5), torch.randn(3, 2, 3, 3)
    >>> forward = torch.sum(conv(y, kernel, None, "reflect") * z)
    >>> adjoint = torch.sum(y * conv_adjoint(z, kernel, None, "reflect"))
    >>> bool(torch.isclose(forward, adjoint, rtol=1e-4, atol=1e-4))
    True
    """
    dims, padding = kernel.ndim - 2, kernel.shape[-1] // 2
    if boundary == "zeros" or padding == 0:
        return TRANSPOSED[dims](z, kernel, bias, padding=padding, groups=groups)
    folded = TRANSPOSED[dims](z, kernel, groups=groups)
    for dim in range(1, dims + 1):
        folded = fold_border(folded, padding, boundary, dim=-dim)
    return folded if bias is None else folded + bias.view(-1, *(1,) * dims)


# The names from when there were images alone.
conv2d, conv2d_adjoint = conv, conv_adjoint


def fold_border(wide: Tensor, padding: int, boundary: str, dim: int) -> Tensor:
    """The adjoint of padding one dimension by ``padding`` on both sides: the border added back to its sources."""
    size = wide.shape[dim] - 2 * padding
    left, middle, right = torch.split(wide, [padding, size, padding], dim)
    if boundary == "replicate":
        left, right = left.sum(dim, keepdim=True), right.sum(dim, keepdim=True)
        left_at, right_at = 0, size - 1
    elif boundary == "reflect":
        left, right = left.flip(dim), right.flip(dim)
        left_at, right_at = 1, size - 1 - padding
    else:  # circular: each border is the opposite edge
        left_at, right_at = size - padding, 0
    return middle + place(left, left_at, size, dim) + place(right, right_at, size, dim)


def place(part: Tensor, start: int, size: int, dim: int) -> Tensor:
    """Zeros of length ``size`` along ``dim`` that hold ``part`` from index ``start``."""
    before, after = start, size - start - part.shape[dim]
    return F.pad(part, (0, 0) * (-1 - dim) + (before, after))


def init_like_convolution(kernel: Tensor, *biases: Tensor | None) -> None:
    """PyTorch's own initialisation of a convolution: uniform in +-1 / sqrt(fan in), for kernel and biases."""
    bound = 1 / max(1, kernel[0].numel()) ** 0.5
    with torch.no_grad():
        for tensor in (kernel, *biases):
            if tensor is not None:
                tensor.uniform_(-bound, bound)
