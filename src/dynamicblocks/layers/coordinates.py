"""Coordinates of an image, and the polynomials in them that are coefficients of operators."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pixel_centres(count: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """The centres of ``count`` equal pixels that fill (-1, 1): (2 i + 1) / count - 1, antisymmetric to the last bit.

    >>> pixel_centres(4)
    tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    # Half precision cannot hold 2 i + 1 - count of a large image.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    places = torch.arange(count, device=device, dtype=wide)
    return ((2 * places + (1 - count)) / count).to(dtype or torch.get_default_dtype())


def monomials(size: Sequence[int], degree: int, like: Tensor) -> Tensor:
    """X, Y and, of degree 2, X^2, XY, Y^2 on the pixels of an image, with the type and device of ``like``.

    X grows with the last axis, the column, Y with the one before, the row. A signal has X and X^2; a volume has
    X, Y, Z and X^2, XY, XZ, Y^2, YZ, Z^2.

    Shapes:
        (terms, *size).
    """
    # Products of rounded coordinates would be rounded twice.
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    terms = []
    for axis, count in enumerate(reversed(size)):
        centres = pixel_centres(count, device=like.device, dtype=wide)
        terms.append(centres.view(-1, *(1,) * axis).expand(*size))
    if degree == 2:
        terms += [one * other for index, one in enumerate(terms) for other in terms[index:]]
    return torch.stack(terms).to(like.dtype)
