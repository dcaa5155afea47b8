"""Explicit Runge-Kutta methods."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.integrators.base import Integrator, Stage
from dynamicblocks.integrators.tableaus import Tableau


def add_scaled(y: Tensor, slopes: list[Tensor], weights: tuple[float, ...], h: float) -> Tensor:
    """Return y + h sum_i w_i k_i. A wide y stays wide where autocast makes the slopes narrow."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0:
            y = torch.add(y, slope, alpha=h * weight)
    return y


@dataclass(frozen=True)
class RungeKutta(Integrator):
    """The explicit Runge-Kutta method of a tableau.

    >>> from dynamicblocks.integrators import Tableau
    >>> RungeKutta(Tableau("midpoint", order=2, a=((), (1 / 2,)), b=(0, 1))).evaluations
    2
    """

    tableau: Tableau

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.tableau.c

    def advance(self, stage: Stage, h: float, carry: Tensor) -> Tensor:
        slopes: list[Tensor] = []
        for fraction, row in zip(self.tableau.c, self.tableau.a, strict=True):
            slopes.append(stage(fraction, add_scaled(carry, slopes, row, h)))
        return add_scaled(carry, slopes, self.tableau.b, h)
