"""Initial value problems with exact solutions, all of them with fields that depend on time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    field: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]

    def y0(self, t: Tensor) -> Tensor:
        return self.exact(t)


def _turn(t, y):
    return torch.cos(t) * torch.stack([y[1], -y[0]])


def _turned(t):
    return torch.stack([torch.cos(torch.sin(t)), -torch.sin(torch.sin(t))], -1)


PROBLEMS = {
    # y = 1 / (1 + t^2)
    "rational": Problem(lambda t, y: -2 * t * y * y, lambda t: (1 / (1 + t * t))[..., None]),
    # A rotation by the angle sin t.
    "turn": Problem(_turn, _turned),
    # y = sin t + exp(-t)
    "forced": Problem(
        lambda t, y: torch.sin(t) + torch.cos(t) - y, lambda t: (torch.sin(t) + torch.exp(-t))[..., None]
    ),
    "complex": Problem(lambda t, y: 1j * t * y, lambda t: torch.exp(0.5j * t * t)[..., None]),
}
