"""Momentum residual networks: a velocity that forgets, and remembers enough for the way back."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import add_scaled
from dynamicblocks.layers.parts import FIELD


@dataclass(frozen=True)
class Momentum(Integrator):
    """v1 = gamma v0 + (1 - gamma) f(x0), x1 = x0 + h v1, which begins with v = 0.

    The step back divides the velocity by gamma, and with it its rounding errors: :func:`momentum_steps` says how many
    steps they allow.

    Args:
        gamma: how much of the velocity stays, above 0 and below 1.

    Source: Sander et al. 2021, arXiv:2102.07870.

    >>> momentum, stage = Momentum(0.5), lambda c, x: -x
    >>> there = momentum.advance(stage, 1.0, momentum.begin(stage, 1.0, torch.tensor(1.0)))
    >>> there, momentum.unstep(stage, 1.0, there)
    ((tensor(0.5000), tensor(-0.5000)), (tensor(1.), tensor(0.)))
    """

    gamma: float = 0.9

    def __post_init__(self) -> None:
        check_gamma(self.gamma)

    @property
    def name(self) -> str:
        return "momentum"

    @property
    def drifts(self) -> bool:
        return True

    @property
    def order(self) -> int:
        return 1

    @property
    def reads(self) -> Reads:
        return ((0.0, FIELD),)

    @property
    def equation(self) -> str:
        # With steps of any length that networks have, the velocity lags behind f.
        return "m y'' + y' = f(t, y), m = h gamma / (1 - gamma)"

    @property
    def shorthand(self) -> str:
        return f"{self.name}(gamma={self.gamma:g})"

    def begin(self, stage: Stage, h: Size, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, torch.zeros_like(y)

    def advance(self, stage: Stage, h: Size, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, v = carry
        v = add_scaled(self.gamma * v, [stage(0.0, x)], [1 - self.gamma], 1.0)
        return add_scaled(x, [v], [1.0], h), v

    def unstep(self, stage: Stage, h: Size, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, v = carry
        x = add_scaled(x, [v], [-1.0], h)
        return x, add_scaled(v, [stage(0.0, x)], [self.gamma - 1], 1.0) / self.gamma


def check_gamma(gamma: object) -> None:
    """Raise a ConfigurationError for what is no gamma."""
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < 1:
        raise ConfigurationError(
            f"gamma must be a number above 0, by which the step back divides, and below 1, where the layer is read, "
            f"such as 0.9, got {gamma!r:.80}"
        )


def momentum_steps(gamma: float, drift: float, dtype: torch.dtype = torch.float32) -> int:
    """How many steps of momentum can be taken back before they lead off by ``drift``, relative to the state.

    A step back divides the velocity, and the error that it has, by gamma, and adds an error r of its own: rounding, of
    there and back together about one unit in the last place of a velocity as large as the state, r = eps. After n steps
    that is r (1/gamma + ... + 1/gamma^n), which stays below the drift for

        n = log(1 + drift (1 - gamma) / eps) / log(1 / gamma),    rounded down.

    An estimate: where the layers contract the state, or where it grows on the way there, they take part in it, and it
    is measured (:func:`dynamicblocks.analysis.drift`, ``max_drift`` of the gradient mode ``reversible``).

    Args:
        gamma: of the momentum.
        drift: that is let pass; a gradient is off by about as much.
        dtype: of the state. :class:`~dynamicblocks.invertible.MomentumNet` carries it with more digits, which allows
            some more steps, until an error of the last of these makes a module see another number.

    >>> momentum_steps(0.9, 1e-3), momentum_steps(0.9, 1e-3, torch.float64), momentum_steps(0.99, 1e-3)
    (63, 254, 441)
    """
    check_gamma(gamma)
    if isinstance(drift, bool) or not isinstance(drift, int | float) or not drift > 0:
        raise ConfigurationError(f"drift must be a positive number, such as 1e-3, got {drift!r:.80}")
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
        raise ConfigurationError(f"dtype must be a floating-point type, got {dtype!r:.80}")
    return int(math.log1p(drift * (1 - gamma) / torch.finfo(dtype).eps) / -math.log(gamma))
