"""Explicit Runge-Kutta methods made algebraically reversible: two states that lead each other, by steps there and back.

With Psi_h(t, y) the increment of a step of size h, and a coupling lambda,

    y_{n+1} = lambda y_n + (1 - lambda) z_n + Psi_h(t_n, z_n),    z_{n+1} = z_n - Psi_{-h}(t_{n+1}, y_{n+1})

where z_0 = y_0, and from the end of a step to its begin, with the same increments,

    z_n = z_{n+1} + Psi_{-h}(t_{n+1}, y_{n+1}),    y_n = z_n + (y_{n+1} - z_n - Psi_h(t_n, z_n)) / lambda

The order is that of the method. Where the solution decays, y - z would grow without the coupling; with it, rounding
errors grow by 1 / lambda with each step that is taken back.

Source: McCallum & Foster 2024, arXiv:2410.11648.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.embedded import Paired, Trial
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Slope, Stage
from dynamicblocks.integrators.interpolant import Row
from dynamicblocks.integrators.pairs import Pair
from dynamicblocks.integrators.runge_kutta import RungeKutta, add_scaled
from dynamicblocks.integrators.tableaus import Tableau
from dynamicblocks.integrators.tolerance import Tolerance
from dynamicblocks.layers.parts import FIELD

COUPLING = 0.999


def check_coupling(coupling: object) -> None:
    """Raise a ConfigurationError for what is no coupling."""
    number = isinstance(coupling, int | float) and not isinstance(coupling, bool)
    if not (number and 0 < coupling <= 1):  # type: ignore[operator]
        raise ConfigurationError(
            f"coupling must be a number above 0 and at most 1, such as {COUPLING}, got {coupling!r:.80}"
        )


@dataclass(frozen=True)
class Increments:
    """Those of an explicit method over one step, from its begin and back from its end.

    A stage of the step back, at the fraction c of it, is the stage at 1 - c of the step.

    Args:
        tableau: of the method.
    """

    tableau: Tableau
    there: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Fractions of the stages; those that serve an estimate of the error alone are left out."""
    back: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Fractions of the stages of the step back."""

    def __post_init__(self) -> None:
        count = max(n for n, weight in enumerate(self.tableau.b, 1) if weight != 0)
        there = self.tableau.c[:count]
        object.__setattr__(self, "there", there)
        object.__setattr__(self, "back", tuple(_mirrored(c, there) for c in there))

    def added(self, to: Tensor, stage: Slope, h: Size, z: Tensor) -> Tensor:
        """``to`` with Psi_h(t_n, z)."""
        return add_scaled(to, self._slopes(self.there, stage, h, z), self._weights, h)

    def subtracted(self, of: Tensor, stage: Slope, h: Size, z: Tensor) -> Tensor:
        """``of`` without Psi_h(t_n, z)."""
        return add_scaled(of, self._slopes(self.there, stage, h, z), self._weights, -h)

    def led(self, z: Tensor, stage: Slope, h: Size, y: Tensor) -> tuple[Tensor, Tensor]:
        """``z`` without Psi_-h(t_{n+1}, y), and the slope at y."""
        slopes = self._slopes(self.back, stage, -h, y)
        return add_scaled(z, slopes, self._weights, h), slopes[0]

    def led_back(self, z: Tensor, stage: Slope, h: Size, y: Tensor) -> Tensor:
        """``z`` with Psi_-h(t_{n+1}, y)."""
        return add_scaled(z, self._slopes(self.back, stage, -h, y), self._weights, -h)

    @property
    def _weights(self) -> tuple[float, ...]:
        return self.tableau.b[: len(self.there)]

    def _slopes(self, fractions: tuple[float, ...], stage: Slope, h: Size, y: Tensor) -> list[Tensor]:
        slopes: list[Tensor] = []
        for fraction, row in zip(fractions, self.tableau.a, strict=False):
            slopes.append(stage(fraction, add_scaled(y, slopes, row, h) if row else y))
        return slopes


def _mirrored(c: float, known: tuple[float, ...]) -> float:
    """1 - c, or the fraction among the known ones that it is but for rounding: theta is then blended once for both."""
    nearest = min(known, key=lambda each: abs(each - (1 - c)))
    return nearest if math.isclose(nearest, 1 - c, abs_tol=1e-12) else 1 - c


def begin_of(increments: Increments, coupling: float, stage: Slope, h: Size, y: Tensor, z: Tensor) -> "Coupled":
    """Both states at the begin of a step, from those at its end."""
    z = increments.led_back(z, stage, h, y)
    return Coupled(torch.add(z, increments.subtracted(y, stage, h, z) - z, alpha=1 / coupling), z)


@dataclass(frozen=True)
class Coupled:
    """What a reversible Runge-Kutta method carries.

    Args:
        y: the state.
        z: its second approximation, from which y is led.
    """

    y: Tensor
    z: Tensor


@dataclass(frozen=True)
class ReversibleRungeKutta(Integrator):
    """An explicit Runge-Kutta method made algebraically reversible, of the same order at twice the evaluations.

        y1 = z0 + lambda (y0 - z0) + Psi_h(t0, z0),    z1 = z0 - Psi_-h(t1, y1)

    where Psi_h is the increment of a step of the method, and z begins as y.

    Args:
        method: the method; its name in strings, ``"reversible('rk4', coupling=0.99)"``.
        coupling: lambda, above 0 and at most 1. With 1 the two states are tied by nothing but the steps, and drift
            apart where the solution decays; the smaller it is, the larger the steps may be there, and the faster
            rounding errors grow on the way back, by 1 / lambda a step.

    Where the layer has a projection, which has no way back, z begins anew behind it.

    Source: McCallum & Foster 2024, arXiv:2410.11648.

    >>> import torch
    >>> from dynamicblocks.integrators import as_integrator
    >>> method, stage = as_integrator("reversible('rk4')"), lambda c, y: -y
    >>> there = method.advance(stage, 0.5, method.begin(stage, 0.5, torch.tensor(1.0)))
    >>> there.y, method.unstep(stage, 0.5, there).y
    (tensor(0.6068), tensor(1.))
    >>> method.shorthand
    "reversible('rk4', coupling=0.999)"
    """

    method: RungeKutta
    coupling: float = COUPLING
    increments: Increments = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_coupling(self.coupling)
        object.__setattr__(self, "increments", Increments(self.method.tableau))

    @property
    def name(self) -> str:
        return f"reversible({self.method.name!r})"

    @property
    def shorthand(self) -> str:
        return f"reversible({self.method.shorthand!r}, coupling={self.coupling!r})"

    @property
    def order(self) -> int:
        return self.method.order

    @property
    def reads(self) -> Reads:
        # Most places are read twice, there and back.
        return tuple((c, FIELD) for c in dict.fromkeys((*self.increments.there, *self.increments.back)))

    @property
    def evaluations(self) -> int:
        return 2 * len(self.increments.there)

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Coupled:
        return Coupled(y, y)

    def finish(self, carry: Coupled) -> Tensor:
        return carry.y

    def amend(self, carry: Coupled, change: Callable[[Tensor], Tensor]) -> Coupled:
        y = change(carry.y)
        return Coupled(y, y)

    def advance(self, stage: Stage, h: Size, carry: Coupled) -> Coupled:
        z = carry.z
        y = self.increments.added(torch.add(z, carry.y - z, alpha=self.coupling), stage, h, z)
        return Coupled(y, self.increments.led(z, stage, h, y)[0])

    def unstep(self, stage: Stage, h: Size, carry: Coupled) -> Coupled:
        return begin_of(self.increments, self.coupling, stage, h, carry.y, carry.z)


@dataclass(kw_only=True)
class CoupledTrial(Trial):
    """A step of two states that was tried.

    Args:
        there: the step of the pair from z0.
        z0: the second state at its begin.
    """

    there: Trial
    z0: Tensor

    def parts(self, y0: Tensor, h: Size) -> list[Tensor]:
        return [*self.there.parts(self.z0, h), y0 - self.z0]


@dataclass(frozen=True)
class ReversiblePair(Paired):
    """An embedded explicit pair made algebraically reversible, as :class:`ReversibleRungeKutta` is.

    The error of a step is the pair's estimate for the increment from z. Between the ends of a step the state is the
    pair's own interpolant from z, with what y differs from it.

    Args:
        pair: the pair.
        coupling: lambda.

    Source: McCallum & Foster 2024, arXiv:2410.11648.

    >>> from dynamicblocks.integrators import as_integrator
    >>> as_integrator("reversible('bosh3(rtol=1e-2)')").embedded.order
    3
    """

    pair: Pair
    coupling: float = COUPLING
    increments: Increments = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_coupling(self.coupling)
        object.__setattr__(self, "increments", Increments(self.pair.tableau))

    @property
    def fractions(self) -> tuple[float, ...]:
        return (*self.pair.fractions, *self.increments.back)

    @property
    def name(self) -> str:
        return f"reversible({self.pair.name!r})"

    def shorthand(self, settings: str) -> str:
        return f"reversible({self.pair.shorthand(settings)!r}, coupling={self.coupling!r})"

    @property
    def order(self) -> int:
        return self.pair.order

    @property
    def error_order(self) -> int:
        return self.pair.error_order

    @property
    def interpolation_order(self) -> int:
        return self.pair.interpolation_order

    @property
    def meets_outputs(self) -> bool:
        return self.pair.meets_outputs

    def weights(self, x: float | Tensor) -> Row:
        return (*self.pair.weights(x), 1 - (1 - self.coupling) * x)

    def attempt_both(self, stage: Slope, h: Size, y: Tensor, z: Tensor, tolerance: Tolerance) -> Trial:
        there = self.pair.attempt(stage, h, z, stage(0.0, z), tolerance)
        y1 = torch.add(there.y1, y - z, alpha=self.coupling)
        z1, end = self.increments.led(z, stage, h, y1)
        return CoupledTrial(y1, there.error, there.start, end, companion=z1, there=there, z0=z)

    def unstep(self, stage: Slope, h: Size, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        begin = begin_of(self.increments, self.coupling, stage, h, y, z)
        return begin.y, begin.z
