"""Adaptive implicit methods for stiff problems: diagonally implicit pairs whose first stage is explicit."""

import math
from dataclasses import InitVar, dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.embedded import Embedded, Trial
from dynamicblocks.integrators.half import HALF, WideStage, rounding
from dynamicblocks.integrators.integrator import Size, Slope
from dynamicblocks.integrators.newton_krylov import Residual, Rows, attach, newton, rms, still_numbers
from dynamicblocks.integrators.order_conditions import check_coefficients, check_order
from dynamicblocks.integrators.runge_kutta import add_scaled
from dynamicblocks.integrators.tolerance import Tolerance
from dynamicblocks.integrators.unsolved import Unsolved, unsolved
from dynamicblocks.times import check_count

# The stages are found to this part of the tolerance of a step.
_PART = 0.01


@dataclass(frozen=True)
class EsdirkTableau:
    """Coefficients of a diagonally implicit pair that is explicit in its first stage and ends at its last.

        k_1 = f(t, y),    Y_i = y + h sum_{j < i} a_ij k_j + h gamma k_i,    k_i = f(t + c_i h, Y_i),    y(t + h) = Y_s

    Args:
        name: the method's name.
        order: its order of convergence; the other state of the pair is of one order less.
        gamma: the diagonal.
        c: fractions of the step.
        a: rows of the strictly lower triangle.
        error: weights of the difference of the two states, error = h sum_i e_i k_i.
        check: whether the order is checked, which takes milliseconds for a high one.

    Raises:
        ConfigurationError: the wrong number of coefficients, numbers that are not finite, a fraction that is not its
            row sum, or coefficients that are not of this order.
    """

    name: str
    order: int
    gamma: float
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        what, stages = f"tableau {self.name!r}", len(self.c)
        lengths = [*map(len, self.a), len(self.error)]
        if lengths != [*range(stages), stages]:
            raise ConfigurationError(
                f"{what}: a method of {stages} stages has rows of length {list(range(stages))} in a and {stages} "
                f"weights of the error, got {lengths[:-1]} and {lengths[-1]}"
            )
        check_coefficients(what, self.order, (self.gamma,), self.c, *self.a, self.error)
        if not check:
            return
        rows = [(*row, self.gamma if n else 0.0) for n, row in enumerate(self.a)]
        for n, (c, row) in enumerate(zip(self.c, rows, strict=True)):
            if not math.isclose(c, math.fsum(row), abs_tol=1e-9):
                raise ConfigurationError(f"{what}: c[{n}] must be its row sum {math.fsum(row):.12g}, got {c:.12g}")
        check_order(what, rows, rows[-1], self.order)
        other = [b - e for b, e in zip(rows[-1], self.error, strict=True)]
        check_order(f"{what}, the other state of the pair (a[-1] - error)", rows, other, self.order - 1, pair=True)

    @cached_property
    def guesses(self) -> tuple[tuple[float, ...], ...]:
        """For each stage, weights of the slopes before it that extrapolate them to it, from three stages at most."""
        made = []
        for i, at in enumerate(self.c):
            # Where two stages stand at one time, the later is as good or better.
            latest = {c: j for j, c in enumerate(self.c[:i])}
            near = sorted(latest, key=lambda c: abs(c - at))[:3]
            row = [0.0] * i
            for c in near:
                row[latest[c]] = math.prod((at - other) / (c - other) for other in near if other != c)
            made.append(tuple(row))
        return tuple(made)


@dataclass(frozen=True)
class Esdirk(Embedded):
    """The adaptive method of a tableau, for stiff problems.

    Each stage is one system for z = h gamma k, solved by Newton's method with GMRES to a small part of the tolerance.
    The slope is then z / (h gamma): evaluating f again would multiply what is left of the error by its stiffness.
    Gradients go through the solved equations, not through the iterations.

    Args:
        tableau: its coefficients.
        max_iters: most steps of Newton's method; where they are not enough, the error is infinite.
        rows: whether each entry of the leading dimension is a system of its own, with a Krylov space of its own; false
            where one may depend on another.
        derivatives: how often results may be differentiated; more cost more.

    Source: Kvaerno 2004; Kennedy and Carpenter 2003.

    >>> trial = Esdirk(ESDIRKS[0]).attempt(
    ...     lambda c, y: -1e6 * (y - 2), 1.0, torch.ones(1), torch.full((1,), 1e6), Tolerance(1e-3, 1e-6)
    ... )
    >>> trial.y1
    tensor([2.0000])
    """

    tableau: EsdirkTableau
    max_iters: int = 10
    rows: bool = False
    derivatives: int = 1

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
    def error_order(self) -> int:
        return self.tableau.order

    @property
    def meets_outputs(self) -> bool:
        # A polynomial through the slopes of a stiff field multiplies what error there is by the stiffness.
        return True

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.tableau.c

    def attempt(self, stage: Slope, h: Size, y: Tensor, slope: Tensor, tolerance: Tolerance) -> Trial:
        if y.dtype not in HALF:
            return self._attempt(stage, h, y, slope, tolerance, y.dtype)
        kind = y.dtype
        trial = self._attempt(WideStage(stage, kind), h, y.float(), slope.float(), tolerance, kind)
        return replace(trial, y1=trial.y1.to(kind), start=slope, end=trial.end.to(kind))

    def _attempt(
        self, stage: Slope, h: Size, y: Tensor, slope: Tensor, tolerance: Tolerance, kind: torch.dtype
    ) -> Trial:
        tableau, layout = self.tableau, Rows.of(y, each=self.rows)
        with torch.no_grad():
            scale = tolerance.scale(y)
            size, unit = self._units(layout, y, scale, rounding(y, kind))
        increments, y1 = [h * slope], y
        found = torch.ones(layout.rows, dtype=torch.bool, device=y.device)
        left: Unsolved | None = None
        for c, row, guess in zip(tableau.c[1:], tableau.a[1:], tableau.guesses[1:], strict=True):
            known = add_scaled(y, increments, row, 1.0)
            part, solved, missing = self._solve(stage, c, h, known, increments, guess, layout, size, unit)
            found, left = found & solved, left or missing
            if left is not None and not bool(found.any()):
                return Trial(y, torch.full_like(scale, math.inf), slope, slope, unsolved=left)
            y1 = known + part
            increments.append(part / tableau.gamma)
        if isinstance(h, Tensor):
            # A sample that has arrived takes steps of no size.
            end = torch.where(h == 0, slope, increments[-1] / torch.where(h == 0, 1, h))
        else:
            end = increments[-1] / h
        with torch.no_grad():
            error = add_scaled(torch.zeros_like(y), increments, tableau.error, 1.0)
        if left is not None:
            lost = (~found).reshape(-1, *[1] * (y.dim() - 1))
            y1, end = torch.where(lost, y, y1), torch.where(lost, slope, end)
            error = torch.where(lost, math.inf, error.abs())
        return Trial(y1, error, slope, end, unsolved=left)

    def _solve(
        self,
        stage: Slope,
        c: float,
        h: Size,
        known: Tensor,
        increments: list[Tensor],
        guess: tuple[float, ...],
        layout: Rows,
        size: Tensor,
        unit: Tensor,
    ) -> tuple[Tensor, Tensor, Unsolved | None]:
        """The z of z = h gamma f(c, known + z), and for each row whether it was found; zero where it was not."""
        gamma = self.tableau.gamma

        def equation(known: Tensor, h: Size) -> Residual:
            def residual(z: Tensor) -> Tensor:
                (part,) = layout.unpack(z)
                return layout.pack(add_scaled(part, [stage(c, known + part)], [-gamma], h))

            return residual

        still = equation(*still_numbers(known, h))
        with torch.no_grad():
            first = layout.pack(add_scaled(torch.zeros_like(known), increments, guess, gamma))
        z, found = newton(still, first, size, unit, max_iters=self.max_iters)
        left = None
        if not bool(found.all()):
            left = unsolved(self.name, still, z, known, layout)
            z = torch.where(found.unsqueeze(1), z, 0)
        z = attach(equation(known, h), z, self.derivatives, still=still, evaluations=1)
        return layout.unpack(z)[0], found, left

    @staticmethod
    def _units(layout: Rows, y: Tensor, scale: Tensor, coarse: float | None) -> tuple[Tensor, Tensor]:
        """How large the state is, row by row, and the change of it that does not matter, entry by entry."""
        size = rms(layout.pack(y))
        real = (_PART * scale).expand(y.shape).to(size.dtype)
        unit = layout.pack(torch.complex(real, real) if y.is_complex() else real)
        return size, unit if coarse is None else torch.maximum(unit, coarse * size)


# The root of g^3 - 3 g^2 + 3 g / 2 - 1 / 6 for which the method is L-stable.
_G3 = 0.43586652150845899942
_KVAERNO3 = (
    (-4 * _G3**2 + 6 * _G3 - 1) / (4 * _G3),
    (1 - 2 * _G3) / (4 * _G3),
    (6 * _G3 - 1) / (12 * _G3),
    -1 / ((24 * _G3 - 12) * _G3),
    (-6 * _G3**2 + 6 * _G3 - 1) / (6 * _G3 - 3),
)
_KVAERNO5 = (
    (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676),
    (0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728),
)
_KENCARP4 = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211)

_Known = partial(EsdirkTableau, check=False)

ESDIRKS = (
    _Known(
        "kvaerno3",
        3,
        _G3,
        (0.0, 2 * _G3, 1.0, 1.0),
        ((), (_G3,), _KVAERNO3[:2], _KVAERNO3[2:]),
        (_KVAERNO3[2] - _KVAERNO3[0], _KVAERNO3[3] - _KVAERNO3[1], _KVAERNO3[4] - _G3, _G3),
    ),
    # The third stage stands beyond the end of the step.
    _Known(
        "kvaerno5",
        5,
        0.26,
        (0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
        (
            (),
            (0.26,),
            (0.13, 0.84033320996790809),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998),
            *_KVAERNO5,
        ),
        (*(b - a for a, b in zip((*_KVAERNO5[0], 0.26), _KVAERNO5[1], strict=True)), 0.26),
    ),
    # The implicit half of the additive method; all its stages stand within the step.
    _Known(
        "kencarp4",
        4,
        1 / 4,
        (0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0),
        (
            (),
            (1 / 4,),
            (8611 / 62500, -1743 / 31250),
            (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
            (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
            _KENCARP4,
        ),
        (
            82889 / 524892 - 4586570599 / 29645900160,
            0.0,
            15625 / 83664 - 178811875 / 945068544,
            69875 / 102672 - 814220225 / 1159782912,
            -2260 / 8211 + 3700637 / 11593932,
            1 / 4 - 61727 / 225920,
        ),
    ),
)
"""Adaptive implicit methods."""
