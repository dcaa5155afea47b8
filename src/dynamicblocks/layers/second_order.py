"""Equations of second order as those of first: position and velocity are the two halves of the channels."""

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.protocol import takes_time


class SecondOrder(nn.Module):
    """F(t, (x, v)) = (v, A(t, (x, v))), of x'' = A(t, x, x').

    The first half of the channels is the position, the second the velocity.

    Shapes:
        (batch, 2 n, *) -> the same.

    Args:
        acceleration: a module of ``(y)`` or ``(t, y)`` that maps all 2 n channels to the n of the acceleration.

    >>> class Spring(nn.Module):
    ...     def forward(self, y: Tensor) -> Tensor:
    ...         return -y[:, :1]
    >>> SecondOrder(Spring())(0.0, torch.tensor([[1.0, 2.0]])).tolist()
    [[2.0, -1.0]]
    """

    def __init__(self, acceleration: nn.Module) -> None:
        super().__init__()
        self.acceleration = acceleration
        self._timed = takes_time(acceleration)

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        change = self.acceleration(t, y) if self._timed else self.acceleration(y)
        velocity = y[:, y.shape[1] // 2 :]
        if velocity.shape != change.shape or 2 * change.shape[1] != y.shape[1]:
            raise ConfigurationError(
                f"the acceleration must be of half of the channels of position and velocity, {tuple(y.shape)}, got "
                f"{tuple(change.shape)}"
            )
        return torch.cat([velocity, change.to(y.dtype)], dim=1)
