"""Parametrisations of a twist: which kernels it has, and the coefficients that they are multiplied with."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, brief, unknown_name
from dynamicblocks.layers.coordinates import monomials
from dynamicblocks.layers.dimensions import extent

Parametrisation = Literal["vector", "independent", "full"]
PARAMETRISATIONS: tuple[Parametrisation, ...] = get_args(Parametrisation)


def check_twist(parametrisation: str, degree: int, kernel_size: tuple[int, ...]) -> Parametrisation:
    """Return ``parametrisation``, or raise where such a twist of such a kernel cannot be."""
    if degree not in (1, 2):
        raise ConfigurationError(f"the degree of a twist is 1 or 2, got {brief(degree)}")
    for known in PARAMETRISATIONS:
        if parametrisation == known:
            break
    else:
        raise unknown_name("parametrisation of a twist", parametrisation, PARAMETRISATIONS)
    if known == "vector" and len(set(kernel_size)) > 1:
        angle, form = ("90", "square") if len(kernel_size) == 2 else ("120", "cubic")
        raise ConfigurationError(
            f"a vector twist turns its kernel by {angle} degrees, so the kernel must be {form}, got "
            f"{extent(kernel_size)}; use parametrisation='independent'"
        )
    if known != "full" and math.prod(kernel_size) == 1:
        raise ConfigurationError(
            f"a kernel of {extent(kernel_size)} has no antisymmetric part; use parametrisation='full'"
        )
    return known


def free_kernels(parametrisation: Parametrisation, degree: int, dims: int) -> int:
    """How many kernels a twist has to learn, each as large as the plain one.

    >>> [free_kernels("full", 2, dims) for dims in (1, 2, 3)]
    [2, 5, 9]
    """
    if parametrisation == "vector":
        return degree
    return dims if degree == 1 else dims + dims * (dims + 1) // 2


def twist_kernels(twist: Tensor, parametrisation: Parametrisation, degree: int) -> list[Tensor]:
    """The kernels of the coefficients, of the free ones."""
    dims = twist.ndim - 2
    free = list(twist.chunk(free_kernels(parametrisation, degree, dims)))
    if parametrisation == "full":
        return free
    odd = [antisymmetric(kernel) for kernel in free]
    if parametrisation == "independent" or dims == 1:
        return odd
    if dims == 2:
        return [kernel for field in odd for kernel in (field, quarter_turn(field))]
    return [kernel for field in odd for kernel in (field, third_turn(field), third_turn(third_turn(field)))]


def coefficients(parametrisation: Parametrisation, degree: int, size: tuple[int, ...], like: Tensor) -> Tensor:
    """What each of :func:`twist_kernels` is multiplied with on an output of that size: (kernels, *size)."""
    terms = monomials(size, degree, like)
    if parametrisation != "vector" or degree == 1 or len(size) == 1:
        return terms
    if len(size) == 2:
        x, y, xx, xy, yy = terms
        return torch.stack([x, y, xx - yy, 2 * xy])
    x, y, z, xx, xy, xz, yy, yz, zz = terms
    return torch.stack([x, y, z, xx + 2 * yz, zz + 2 * xy, yy + 2 * xz])


def antisymmetric(kernel: Tensor) -> Tensor:
    """(K - K mirrored at its centre) / 2; in the plane that is K turned by 180 degrees."""
    axes = kernel.ndim - 2
    # Backwards through all pixels: faster than a flip of several dimensions.
    turned = torch.unflatten(kernel.flatten(-axes).flip(-1), -1, kernel.shape[-axes:])
    return (kernel - turned) / 2


def quarter_turn(kernel: Tensor) -> Tensor:
    """K turned by 90 degrees, columns to rows: d/dX becomes d/dY, and d/dY becomes -d/dX."""
    return torch.rot90(kernel, -1, (-2, -1))


def third_turn(kernel: Tensor) -> Tensor:
    """K turned by 120 degrees about the diagonal of space: d/dX becomes d/dY, d/dY d/dZ, and d/dZ d/dX."""
    return kernel.movedim(-3, -1)
