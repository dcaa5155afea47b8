"""Euler's method, implicit in a linear operator of the layer and explicit in all else."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.integrator import FIRST_ORDER, Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import add_scaled
from dynamicblocks.layers.parts import FIELD

SOLVE, NORM = "solve", "norm"
"""The parts: (y, h) -> (I + h A)^-1 y, linear in y, and a normalisation of the state."""


@dataclass(frozen=True)
class Imex(Integrator):
    """The semi-implicit Euler method, with the operator A of the layer at the end of the step.

        y1 = (I + h A)^-1 (y0 + h f(t0, y0))           y' = f(t, y) - A y, diffusion and reaction
        y1 = (I + h A)^-1 (y0 + h (f(t0, y0) + A y0))  y' = f(t, y), ``balanced``: what was added is taken away

    Where f is zero, steps of the first form never grow, and those of the second change nothing. The second is computed
    as y0 + h (I + h A)^-1 f(t0, y0), which is the same and loses no digits where h A is large.

    Args:
        balanced: the second form.
        norm: before it is solved for, the state is normalised by the layer's part of that name, as in the published
            network. This belongs to the steps and not to the equation: with more of them it is another function.

    Source: Haber, Lensink, Treister and Ruthotto 2019, arXiv:1903.02639; Ascher, Ruuth and Wetton 1995.

    >>> import dynamicblocks as db
    >>> block = db.DynamicBlock("semi_implicit(4)", 3, integrator="imex")
    >>> db.with_integrator(block, "imex(balanced=True)").integrator.shorthand
    'imex(balanced=True)'
    """

    balanced: bool = False
    norm: bool = False

    irreversible: ClassVar[str] = "for its implicit half damps details below what numbers can hold"

    def __post_init__(self) -> None:
        for option, given in (("balanced", self.balanced), ("norm", self.norm)):
            if not isinstance(given, bool):
                raise ConfigurationError(f"{option} of imex must be True or False, got {given!r}")
        if self.balanced and self.norm:
            raise ConfigurationError(
                "imex: balanced and norm exclude each other, for what the operator adds to one state cannot be taken "
                "away from another, normalised one; take imex(norm=True), as published, or imex(balanced=True)"
            )

    @property
    def name(self) -> str:
        return "imex"

    @property
    def shorthand(self) -> str:
        chosen = [option for option in ("balanced", "norm") if getattr(self, option)]
        return f"imex({chosen[0]}=True)" if chosen else "imex"

    @property
    def equation(self) -> str:
        if self.norm:
            return ""
        return FIRST_ORDER if self.balanced else "y' = f(t, y) - A y"

    @property
    def order(self) -> int:
        return 1

    @property
    def reads(self) -> Reads:
        return ((0.0, FIELD), *(((1.0, NORM),) if self.norm else ()), (1.0, SOLVE))

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        slope = stage(0.0, carry)
        if self.balanced:
            return add_scaled(carry, [stage.part(SOLVE, 1.0, slope, h)], [1.0], h)
        moved = add_scaled(carry, [slope], [1.0], h)
        if self.norm:
            moved = stage.part(NORM, 1.0, moved)
        return stage.part(SOLVE, 1.0, moved, h)
