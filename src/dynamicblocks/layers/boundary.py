"""Convolutions under a boundary condition, and their exact adjoints.

Padding is the boundary condition of the differential operator that a kernel stands for:
zeros (Dirichlet), replicate (Neumann), reflect (even mirror symmetry), circular (periodic).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
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


class Conv2d(nn.Conv2d):
    """A convolution whose padding keeps the image size (before the stride) under a named boundary condition.

    Shapes:
        (batch, in_channels, H, W) -> (batch, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        boundary: str = "zeros",
        bias: bool = False,
    ) -> None:
        padding = check_kernel_size(kernel_size) // 2
        condition = check_boundary(boundary)
        check_count(stride, "stride")
        super().__init__(
            check_count(in_channels, "in_channels"),
            check_count(out_channels, "out_channels"),
            kernel_size,
            stride=stride,
            padding=padding,
            padding_mode=condition if padding else "zeros",
            bias=bias,
        )


def conv2d(y: Tensor, kernel: Tensor, bias: Tensor | None, boundary: str) -> Tensor:
    """K y + b: the kernel applied under a boundary condition, image size kept."""
    padding = kernel.shape[-1] // 2
    if boundary == "zeros" or padding == 0:
        return F.conv2d(y, kernel, bias, padding=padding)
    return F.conv2d(F.pad(y, (padding,) * 4, mode=boundary), kernel, bias)


def conv2d_adjoint(z: Tensor, kernel: Tensor, bias: Tensor | None, boundary: str) -> Tensor:
    r"""K^T z + b, with K^T the exact adjoint of :func:`conv2d` under the same boundary condition.

    With K = C P (padding P, then convolution C without padding), K^T = P^T C^T: a transposed convolution onto the
    padded image, whose border is then added back to the pixels it was copied from.

    Shapes:
        z (batch, out_channels, H, W), kernel (out_channels, in_channels, k, k) -> (batch, in_channels, H, W).

    >>> y, z, kernel = torch.randn(1, 2, 5, 5), torch.randn(1, 3, 5, 5), torch.randn(3, 2, 3, 3)
    >>> forward = torch.sum(conv2d(y, kernel, None, "reflect") * z)
    >>> adjoint = torch.sum(y * conv2d_adjoint(z, kernel, None, "reflect"))
    >>> bool(torch.isclose(forward, adjoint, rtol=1e-4, atol=1e-4))
    True
    """
    padding = kernel.shape[-1] // 2
    if boundary == "zeros" or padding == 0:
        return F.conv_transpose2d(z, kernel, bias, padding=padding)
    wide = F.conv_transpose2d(z, kernel)
    folded = fold_border(fold_border(wide, padding, boundary, dim=-1), padding, boundary, dim=-2)
    return folded if bias is None else folded + bias.view(-1, 1, 1)


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
    sides = (before, after) if dim == -1 else (0, 0, before, after)
    return F.pad(part, sides)


def init_like_convolution(kernel: Tensor, *biases: Tensor | None) -> None:
    """PyTorch's own initialisation of a convolution: uniform in +-1 / sqrt(fan in), for kernel and biases."""
    bound = 1 / max(1, kernel[0].numel()) ** 0.5
    with torch.no_grad():
        for tensor in (kernel, *biases):
            if tensor is not None:
                tensor.uniform_(-bound, bound)
