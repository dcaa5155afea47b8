"""The integral of a rate as one more state of the equation that moves what the rate depends on."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class WithIntegral(nn.Module):
    """The field of (z, integral of the rate): the slope of z, and the rate.

    Args:
        field: ``field(t, z)``, z of shape (n, width).
        log_rate: of z, (..., width), its logarithm, (..., 1).
    """

    def __init__(self, field: Callable[..., Tensor], log_rate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.field, self.log_rate = field, log_rate

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor], *args: Any) -> tuple[Tensor, Tensor]:
        """The slopes, (n, width) and (n,)."""
        z, _ = state
        return self.field(t, z, *args), self.log_rate(z).squeeze(-1).exp()
