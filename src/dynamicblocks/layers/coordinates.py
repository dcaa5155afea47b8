"""Coordinates of an image, and the polynomials in them that are coefficients of operators."""

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


def monomials(height: int, width: int, degree: int, like: Tensor) -> Tensor:
    """X, Y and, of degree 2, X^2, XY, Y^2 on the pixels of an image, with the type and device of ``like``.

    X grows with the column, Y with the row.

    Shapes:
        (2, height, width), or (5, height, width) for degree 2.
    """
    # Products of rounded coordinates would be rounded twice.
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    x = pixel_centres(width, device=like.device, dtype=wide).expand(height, width)
    y = pixel_centres(height, device=like.device, dtype=wide)[:, None].expand(height, width)
    terms = [x, y] if degree == 1 else [x, y, x * x, x * y, y * y]
    return torch.stack(terms).to(like.dtype)
