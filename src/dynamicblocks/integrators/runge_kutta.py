"""Explicit Runge-Kutta methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.tableaus import Tableau


def weighted(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i k_i, for at least one weight that is not zero."""
    total: Tensor | None = None
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0:
            total = slope * weight if total is None else torch.add(total, slope, alpha=weight)
    if total is None:
        raise ConfigurationError("a weighted sum needs a weight that is not zero")
    return total


def add_scaled(y: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], h: Size) -> Tensor:
    """Return y + h sum_i w_i k_i. A wide y stays wide where autocast makes the slopes narrow."""
    if isinstance(h, Tensor):
        # `alpha` below would be a constant, and one for all samples.
        return y + h * weighted(slopes, weights) if any(weights) else y
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

    irreversible: ClassVar[str] = "for the state before a step is the solution of an equation"

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def reads(self) -> Reads:
        return self.tableau.reads

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        slopes: list[Tensor] = []
        for fraction, row in zip(self.tableau.c, self.tableau.a, strict=True):
            slopes.append(stage(fraction, add_scaled(carry, slopes, row, h) if row else carry))
        return add_scaled(carry, slopes, self.tableau.b, h)
