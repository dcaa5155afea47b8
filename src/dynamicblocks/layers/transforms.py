"""Kernels as multipliers of waves: how a convolution on a torus, or between mirrors, is applied and solved for at once.

On a torus (periodic boundary) waves are those of the Fourier transform. Between mirrors half a pixel outside the image
(reflecting boundary) they are the cosines of the DCT-II, here orthonormal, so the plain inner product is kept; a kernel
that is even in each axis turns each of them into a multiple of itself. The cosine transform is a product with a matrix
for each axis, which at the usual sizes of states is faster than a transform by FFT; longer axes go by that.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The longest axis that is transformed by a matrix.
LONGEST = 512


def along(matrix: Tensor, y: Tensor, axis: int) -> Tensor:
    """The product of a matrix with one axis, -1 for the last, of a tensor."""
    if axis == -1:
        return y @ matrix.mT
    return (matrix @ y.flatten(axis + 1)).reshape(*y.shape[:axis], len(matrix), *y.shape[axis + 1 :])


def fourier(rows: int, size: int, offsets: int, like: Tensor) -> Tensor:
    """exp(-2 pi i k j / size) for the waves k < rows at the places j < offsets, complex."""
    # The whole turns are taken out in integers, where that costs no digits.
    turns = torch.outer(torch.arange(rows, device=like.device), torch.arange(offsets, device=like.device)) % size
    angle = turns.to(like.dtype) * (-2 * math.pi / size)
    return torch.complex(torch.cos(angle), torch.sin(angle))


def cosines(size: int, offsets: int, like: Tensor) -> Tensor:
    """cos(pi k j / size) for the waves k < size at the places j = -r, ..., r of an odd number of offsets."""
    waves = torch.arange(size, device=like.device)
    turns = torch.outer(waves, torch.arange(offsets, device=like.device) - offsets // 2)
    return _cos(turns, 2 * size, like)


def cosine_transform(size: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II of n values, as a matrix: sqrt(2 / n) cos(pi k (2 j + 1) / 2 n), 1 / sqrt(n) in row 0.

    >>> matrix = cosine_transform(5, torch.zeros(()))
    >>> bool(torch.allclose(matrix @ matrix.mT, torch.eye(5), atol=1e-6))
    True
    """
    places = torch.arange(size, device=like.device)
    norms = (1 + (places > 0)).to(like.dtype).div(size).sqrt()
    return norms[:, None] * _cos(torch.outer(places, 2 * places + 1), 4 * size, like)


def _cos(turns: Tensor, period: int, like: Tensor) -> Tensor:
    """cos(2 pi turns / period) of integers, to the last digit also in single precision."""
    folded = (turns + period // 2) % period - period // 2
    # As a sine it is exact where it is small.
    return torch.sin((period / 4 - folded.abs()).to(like.dtype) * (2 * math.pi / period))


def circular_power(kernel: Tensor, sizes: Sequence[int]) -> Tensor:
    """|L^|^2 at the waves of ``rfftn`` over images of any sizes, also below that of the kernel, which has mean zero.

    Shapes:
        (channels, k, ...) -> (channels, n, ..., n // 2 + 1).
    """
    wave = torch.complex(kernel, torch.zeros_like(kernel))
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        rows = size // 2 + 1 if axis == -1 else size
        wave = along(fourier(rows, size, kernel.shape[axis], kernel), wave, axis)
    return torch.view_as_real(without_constant(wave, len(sizes))).square().sum(-1)


def reflecting_spectrum(kernel: Tensor, sizes: Sequence[int]) -> Tensor:
    """L^ at the cosines over images of any sizes, of a kernel that is even in each axis and has mean zero.

    Shapes:
        (channels, k, ...) -> (channels, n, ...).
    """
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        kernel = along(cosines(size, kernel.shape[axis], kernel), kernel, axis)
    return without_constant(kernel, len(sizes))


def without_constant(spectrum: Tensor, dims: int) -> Tensor:
    """A spectrum less what rounding left at the constant, so that no step, however large, moves a mean."""
    constant = spectrum
    for axis in range(-dims, 0):
        constant = constant.narrow(axis, 0, 1)
    return spectrum - constant


def circular_product(y: Tensor, factor: Tensor, dims: int) -> Tensor:
    """``y`` with each of its waves multiplied, on a torus."""
    axes = tuple(range(-dims, 0))
    return torch.fft.irfftn(torch.fft.rfftn(y, dim=axes) * factor, s=y.shape[-dims:], dim=axes)


def reflecting_product(y: Tensor, factor: Tensor, dims: int) -> Tensor:
    """``y`` with each of its cosines multiplied, between mirrors."""
    axes = range(-dims, 0)
    matrices = {size: cosine_transform(size, y) for size in set(y.shape[-dims:]) if size <= LONGEST}
    for axis in axes:
        matrix = matrices.get(y.shape[axis])
        y = long_cosine_transform(y, axis) if matrix is None else along(matrix, y, axis)
    y = y * factor
    for axis in axes:
        matrix = matrices.get(y.shape[axis])
        y = long_cosine_transform(y, axis, back=True) if matrix is None else along(matrix.mT, y, axis)
    return y


def long_cosine_transform(y: Tensor, axis: int, back: bool = False) -> Tensor:
    """The transform of :func:`cosine_transform` along an axis, or its inverse, by the FFT of twice the length."""
    y = y.movedim(axis, -1)
    size = y.shape[-1]
    waves = torch.arange(size, device=y.device)
    angle = waves.to(y.dtype) * (math.pi / (2 * size))
    # Of a half and its mirror image all waves are real but for this turn, and the constant is there once, not twice.
    turn = torch.complex(torch.cos(angle), torch.sin(angle)) * (2 / size) ** 0.5
    once = 2.0 ** (-0.5 * (waves == 0).to(y.dtype))
    if back:
        spectrum = torch.nn.functional.pad(y / once * turn, (0, 1))
        return (torch.fft.irfft(spectrum, n=2 * size)[..., :size] * size).movedim(-1, axis)
    wave = torch.fft.rfft(torch.cat((y, y.flip(-1)), -1))[..., :size]
    return ((wave * turn.conj()).real * (once / 2)).movedim(-1, axis)
