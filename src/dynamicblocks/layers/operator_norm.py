"""The largest factor by which a linear map stretches a state."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, SolverError

Linear = Callable[[Tensor], Tensor]

# Of |A|^2: what is left of the equation of the eigenvector, and what a fifth more iterations still change.
_RESIDUAL, _CHANGE = 1e-8, 1e-9
_MOST = 5000


@torch.no_grad()
def operator_norm(apply: Linear, adjoint: Linear, shape: tuple[int, ...], device: torch.device) -> float:
    """|A| = max |A y| / |y| over states of a shape, for a linear map A in double precision, to 1e-8 or so.

    The power iteration on A^T A in the form of Lanczos: the largest value over the whole space of the iterates, of
    which the last two alone are kept. It starts from the same numbers every time, and draws none of the caller's.

    Args:
        apply: y -> A y.
        adjoint: z -> A^T z.
        shape: of y.
        device: of the state.

    Raises:
        ConfigurationError: A y is not finite.
        SolverError: the iteration does not converge.

    >>> matrix = torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=torch.float64)
    >>> round(operator_norm(lambda y: matrix @ y, lambda z: matrix.T @ z, (2,), matrix.device) ** 2, 9)
    45.0
    """
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here = (start / start.norm()).to(device)
    before, link = torch.zeros_like(here), 0.0
    diagonal: list[float] = []
    links: list[float] = []
    looked, found = 0, 0.0
    while len(diagonal) < _MOST:
        image = adjoint(apply(here))
        diagonal.append(torch.sum(image * here).item())
        image = torch.add(torch.add(image, here, alpha=-diagonal[-1]), before, alpha=-link)
        link = image.norm().item()
        if not math.isfinite(link):
            raise ConfigurationError("the operator has no norm: what it makes of a state is not finite")
        count = len(diagonal)
        closed = link <= 1e-14 * max(map(abs, diagonal))
        if closed or count >= 1.2 * looked + 4:
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(links, 1) + np.diag(links, -1))
            largest = max(values[-1].item(), 0.0)
            left = link * abs(vectors[-1, -1].item())
            settled = count > 20 and largest - found <= _CHANGE * largest
            if closed or settled or left <= _RESIDUAL * largest:
                return math.sqrt(largest)
            looked, found = count, largest
        links.append(link)
        before, here = here, image / link
    raise SolverError(f"the norm of the operator is not found to {_CHANGE:g} in {_MOST} iterations")
