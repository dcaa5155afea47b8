"""The integral of a rate as one more state of the equation that moves what the rate depends on."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.solver import Solver

# What a likelihood's integral wants: training finds rates of which a loose solve tells too small an integral, at 1e-3
# by 0.015 nats an event, where it was measured.
TIGHT = Solver(rtol=1e-5, atol=1e-6)
State = tuple[Tensor, Tensor]


class WithIntegral(nn.Module):
    """The field of (z, integral of the rate): the slope of z, and the rate.

    Args:
        field: ``field(t, z)``, z of shape (n, width).
        log_rate: of z, (..., width), its logarithm, (..., 1) or (...).
    """

    def __init__(self, field: Callable[..., Tensor], log_rate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.field, self.log_rate = field, log_rate

    def forward(self, t: Tensor, state: State, *args: Any) -> State:
        """The slopes, (n, width) and (n,)."""
        z, _ = state
        return self.field(t, z, *args), log_rate_of(self.log_rate, z).exp()


def with_integral(field: Callable[..., Tensor], log_rate: Callable[[Tensor], Tensor]) -> WithIntegral:
    """The field with the integral of the rate as one more state, (z, integral), of the same solve.

    The integral, (n,), starts from zero; a tolerance bounds the error of both.

    >>> import torch
    >>> import dynamicblocks as db
    >>> both = with_integral(lambda t, z: -z, lambda z: z.log())
    >>> z, integral = db.solve(both, (torch.ones(1, 1), torch.zeros(1)), torch.tensor([0.0, 1.0])).y
    >>> round(integral[-1].item(), 4)  # 1 - exp(-1)
    0.6321
    """
    return WithIntegral(field, log_rate)


def log_rate_of(log_rate: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The logarithm of the rate, (...), of states (..., width)."""
    found = log_rate(z)
    if found.ndim == z.ndim and found.shape[-1] == 1:
        return found.squeeze(-1)
    if found.shape != z.shape[:-1]:
        raise ConfigurationError(
            f"log_rate must tell one number for each state: of states {tuple(z.shape)}, {tuple(z.shape[:-1])} or "
            f"{(*z.shape[:-1], 1)}, got {tuple(found.shape)}"
        )
    return found
