"""Implicit Runge-Kutta methods on fixed grids."""

import math
from dataclasses import InitVar, dataclass, field
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.half import HALF, WideStage, rounding
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.newton_krylov import Residual, Rows, attach, newton, rms, still_numbers
from dynamicblocks.integrators.order_conditions import check_coefficients, check_order
from dynamicblocks.integrators.runge_kutta import add_scaled
from dynamicblocks.integrators.unsolved import tell, unsolved
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.times import check_count


@dataclass(frozen=True)
class ImplicitTableau:
    """Coefficients of an implicit Runge-Kutta method.

        k_i = f(t + c_i h, y + h sum_j a_ij k_j),    y(t + h) = y + h sum_i b_i k_i

    Args:
        name: the method's name.
        order: its order of convergence.
        a: rows of the square matrix. Stages are solved one by one where it is lower triangular, else together; a first
            row of zeros is an explicit stage.
        b: weights, of sum 1.
        check: whether the order is checked, which takes milliseconds for a high one.

    Raises:
        ConfigurationError: rows of the wrong length, weights that do not sum to one, numbers that are not finite,
            stages that no equation determines, or coefficients that are not of this order.

    >>> ImplicitTableau("implicit_midpoint", 2, ((1 / 2,),), (1,)).c
    (0.5,)
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Fractions of the step at which the stages stand: row sums of a, exactly 0 and 1 at the ends of the step."""
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        stages = len(self.b)
        if [len(row) for row in self.a] != [stages] * stages:
            raise ConfigurationError(
                f"tableau {self.name!r}: an implicit method of {stages} stages has {stages} rows of length {stages} in "
                f"a, got lengths {[len(row) for row in self.a]}"
            )
        check_coefficients(f"tableau {self.name!r}", self.order, *self.a, self.b)
        if not math.isclose(math.fsum(self.b), 1.0, abs_tol=1e-12):
            raise ConfigurationError(f"tableau {self.name!r}: the weights b must sum to 1, got {math.fsum(self.b)}")
        object.__setattr__(self, "c", tuple(round(math.fsum(row), 15) for row in self.a))
        if check:
            check_order(f"tableau {self.name!r}", self.a, self.b, self.order)
            try:
                self.inverses  # noqa: B018
            except np.linalg.LinAlgError:
                raise ConfigurationError(
                    f"tableau {self.name!r}: its {len(self.b)} stages are found together, for which a must be regular, "
                    "and it is singular; an explicit stage can be the first of a lower triangular a"
                ) from None

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The stages that are found together."""
        stages = range(len(self.b))
        if any(self.a[i][j] != 0 for i in stages for j in stages if j > i):
            return (tuple(stages),)
        return tuple((stage,) for stage in stages)

    @cached_property
    def inverses(self) -> tuple[tuple[tuple[float, ...], ...], ...]:
        """The inverse of each block of a; empty for an explicit stage."""
        made = []
        for block in self.blocks:
            part = np.array([[self.a[i][j] for j in block] for i in block])
            rows = np.linalg.inv(part).tolist() if part.any() else []
            made.append(tuple(tuple(row) for row in rows))
        return tuple(made)


@dataclass(frozen=True)
class ImplicitRungeKutta(Integrator):
    """The implicit Runge-Kutta method of a tableau.

    The unknowns are the increments z_i = h sum_j a_ij k_j over what is known before, which stiff fields do not
    magnify, and h k follows from them by the inverse of a. They are found to rounding errors by Newton's method with
    GMRES; gradients go through the solved equations, not through the iterations.

    Args:
        tableau: its coefficients.
        max_iters: most steps of Newton's method; where they are not enough, the solve is told, and decides.
        rows: whether each entry of the leading dimension is a system of its own, with a Krylov space of its own; false
            where one may depend on another.
        derivatives: how often results may be differentiated; more cost more.
        eps: how exact the field's numbers are, where they are narrower than those of the state; else 0.

    Source: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.8.

    >>> euler = ImplicitRungeKutta(ImplicitTableau("implicit_euler", 1, ((1,),), (1,)))
    >>> euler.step(lambda t, y: -3 * y, 0.0, 1.0, torch.tensor([8.0]))
    tensor([2.])
    """

    tableau: ImplicitTableau
    max_iters: int = 100
    rows: bool = False
    derivatives: int = 1
    eps: float = 0.0

    irreversible: ClassVar[str] = "for its stages are found by iteration from the state before a step"

    def __post_init__(self) -> None:
        check_count(self.max_iters, "max_iters")
        check_count(self.derivatives, "derivatives")

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def reads(self) -> Reads:
        return tuple((c, FIELD) for c in self.tableau.c)

    @property
    def fixed_cost(self) -> bool:
        return False

    @property
    def solves_equations(self) -> bool:
        return True

    @property
    def shorthand(self) -> str:
        return self.name if self.max_iters == 100 else f"{self.name}(max_iters={self.max_iters})"

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        if carry.dtype in HALF:
            return self._advance(WideStage(stage, carry.dtype), h, carry.float(), carry.dtype).to(carry.dtype)
        return self._advance(stage, h, carry, carry.dtype)

    def _advance(self, stage: Stage, h: Size, carry: Tensor, kind: torch.dtype) -> Tensor:
        a, b, c = self.tableau.a, self.tableau.b, self.tableau.c
        known, part = carry, torch.zeros_like(carry)
        increments: list[Tensor] = []  # h k_i
        for block, inverse in zip(self.tableau.blocks, self.tableau.inverses, strict=True):
            known = add_scaled(carry, increments, a[block[0]][: len(increments)], 1.0)
            if not inverse:
                increments.append(h * stage(c[block[0]], known))
                continue
            parts = self._solve(stage, h, known, block, kind)
            increments += [add_scaled(torch.zeros_like(known), parts, row, 1.0) for row in inverse]
            part = parts[-1]
        # Stiffly accurate methods end at their last stage.
        return known + part if a[-1] == b else add_scaled(carry, increments, b, 1.0)

    def _solve(self, stage: Stage, h: Size, known: Tensor, block: tuple[int, ...], kind: torch.dtype) -> list[Tensor]:
        """The increments z of the stages of a block: z_i = h sum_j a_ij f(c_j, known + z_j)."""
        a, c = self.tableau.a, self.tableau.c
        layout, count = Rows.of(known, each=self.rows), len(block)

        def equation(known: Tensor, h: Size) -> Residual:
            def residual(z: Tensor) -> Tensor:
                parts = layout.unpack(z, count)
                slopes = [stage(c[i], known + part) for i, part in zip(block, parts, strict=True)]
                scaled = [
                    add_scaled(part, slopes, [-a[i][j] for j in block], h) for i, part in zip(block, parts, strict=True)
                ]
                return layout.pack(*scaled)

            return residual

        still = equation(*still_numbers(known, h))
        start = layout.pack(known.detach())
        guess = start.new_zeros(layout.rows, start.shape[1] * count)
        coarse, size = self.eps or rounding(known, kind), rms(start)
        unit = None if coarse is None else coarse * size
        root, found = newton(still, guess, size, unit, max_iters=self.max_iters)
        if not bool(found.all()):
            tell(stage, unsolved(self.name, still, root, known, layout, count))
        root = attach(equation(known, h), root, self.derivatives, still=still, evaluations=count)
        return layout.unpack(root, count)


_R3, _R6, _R15 = math.sqrt(3), math.sqrt(6), math.sqrt(15)
_G = 1 - math.sqrt(1 / 2)
_W = math.sqrt(1 / 8)

_Known = partial(ImplicitTableau, check=False)

IMPLICIT = (
    _Known("implicit_euler", 1, ((1,),), (1,)),
    _Known("implicit_midpoint", 2, ((1 / 2,),), (1,)),
    _Known("trapezoid", 2, ((0, 0), (1 / 2, 1 / 2)), (1 / 2, 1 / 2)),
    # Gauss-Legendre: of the highest order, A-stable, symplectic.
    _Known("gl4", 4, ((1 / 4, 1 / 4 - _R3 / 6), (1 / 4 + _R3 / 6, 1 / 4)), (1 / 2, 1 / 2)),
    _Known(
        "gl6",
        6,
        (
            (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
            (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
            (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
        ),
        (5 / 18, 4 / 9, 5 / 18),
    ),
    # Radau IIA: L-stable, stiffly accurate.
    _Known("radauIIA3", 3, ((5 / 12, -1 / 12), (3 / 4, 1 / 4)), (3 / 4, 1 / 4)),
    _Known(
        "radauIIA5",
        5,
        (
            ((88 - 7 * _R6) / 360, (296 - 169 * _R6) / 1800, (-2 + 3 * _R6) / 225),
            ((296 + 169 * _R6) / 1800, (88 + 7 * _R6) / 360, (-2 - 3 * _R6) / 225),
            ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
        ),
        ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
    ),
    # Alexander 1977.
    _Known("sdirk2", 2, ((_G, 0), (1 - _G, _G)), (1 - _G, _G)),
    # Bank et al. 1985, Hosea and Shampine 1996: the trapezoidal rule, then the second backward difference formula.
    _Known("trbdf2", 2, ((0, 0, 0), (_G, _G, 0), (_W, _W, _G)), (_W, _W, _G)),
)
"""Implicit methods for fixed grids, under torchdiffeq's names."""
