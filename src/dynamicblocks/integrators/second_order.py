"""The leapfrog of equations of second order, y'' = F(t, y)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import add_scaled
from dynamicblocks.layers.parts import FIELD

REST, EQUAL, ZERO = "rest", "equal", "zero"
STARTS = {REST: 2, EQUAL: 1, ZERO: 0}
"""How the leapfrog may start, each with the order that this leaves it."""

Moving = tuple[Tensor, Tensor, Size]
"""What it carries: the state, its velocity on the step that led there, and the size of that step."""


@dataclass(frozen=True)
class Leapfrog(Integrator):
    """The leapfrog of y'' = F(t, y), from rest: y'(t0) = 0.

        v1 = v0 + (h0 + h1) / 2 F(t, y0),    y1 = y0 + h1 v1

    with h0 the size of the step before. On equal steps these are y1 = 2 y0 - y(-1) + h^2 F(t, y0), with half the
    rounding errors; on unequal ones the order is the same.

    Args:
        start: what comes before the first state. ``"rest"``, the first step is y1 = y0 + h^2 F / 2: order two.
            ``"equal"``, y(-1) = y0, as in the published networks: order one. ``"zero"``, y(-1) = 0, as in others: there
            v0 = y0 / h, so the solution depends on the number of steps and has no limit. A block that begins so is a
            network of that many layers, and no other number of steps is made of it.

    Source: Chang et al. 2018, arXiv:1709.03698; Ruthotto and Haber 2018, arXiv:1804.04272.

    >>> leapfrog, stage = Leapfrog(), lambda c, y: -y
    >>> there = leapfrog.advance(stage, 0.5, leapfrog.begin(stage, 0.5, torch.tensor(1.0)))
    >>> there[0], leapfrog.unstep(stage, 0.5, there)[0]
    (tensor(0.8750), tensor(1.))
    >>> Leapfrog("equal").shorthand, Leapfrog("equal").order
    ("leapfrog('equal')", 1)
    """

    start_with: str = REST

    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.start_with, str) or self.start_with not in STARTS:
            raise unknown_name("start of leapfrog", str(self.start_with), STARTS)

    @property
    def name(self) -> str:
        return "leapfrog"

    @property
    def shorthand(self) -> str:
        return self.name if self.start_with == REST else f"{self.name}({self.start_with!r})"

    @property
    def order(self) -> int:
        return STARTS[self.start_with]

    @property
    def reads(self) -> Reads:
        return ((0.0, FIELD),)

    @property
    def equation(self) -> str:
        return "" if self.start_with == ZERO else "y'' = f(t, y)"

    @property
    def bound_to_steps(self) -> str:
        return (
            "it begins with the velocity y0 / h, so with other steps it is another function, not the same one more "
            "exactly; take leapfrog('rest'), whose steps may be refined"
            if self.start_with == ZERO
            else ""
        )

    def refined(self, factor: int) -> "Leapfrog":
        if self.bound_to_steps and factor != 1:
            raise ConfigurationError(f"{self.shorthand} cannot be refined: {self.bound_to_steps}")
        return self

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Moving:
        if self.start_with == ZERO:
            return y, y / h, h
        return y, torch.zeros_like(y), 0.0 * h if self.start_with == REST else h

    def advance(self, stage: Stage, h: Size, carry: Moving) -> Moving:
        y, velocity, before = carry
        velocity = add_scaled(velocity, [stage(0.0, y)], [0.5], before + h)
        return add_scaled(y, [velocity], [1.0], h), velocity, h

    def unstep(self, stage: Stage, h: Size, carry: Moving, previous: Size | None = None) -> Moving:
        y, velocity, _ = carry
        # Of the first step, what comes back is what one of equal size before it would have led to.
        before = h if previous is None else previous
        y = add_scaled(y, [velocity], [-1.0], h)
        return y, add_scaled(velocity, [stage(0.0, y)], [-0.5], before + h), before
