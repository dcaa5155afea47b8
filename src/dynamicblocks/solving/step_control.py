"""How long the next step is."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.adaptive import Adaptive


@dataclass(frozen=True)
class StepControl:
    """A controller of step sizes: integral (the usual one), PI or PID.

        h_new = h safety e_n^(-b1 / k) e_{n-1}^(-b2 / k) e_{n-2}^(-b3 / k),
        b1 = P + I + D,   b2 = -(P + 2 D),   b3 = D

    with error ratios e (at most 1 is accepted) of an estimate of order k in h, and P, I, D the coefficients below.

    Args:
        safety: factor below 1 that makes a rejection of the next step less likely.
        grow, shrink: bounds of one change, above and below 1. After an accepted step the size never falls, and it does
            not grow if the attempt before was rejected: at a kink, longer steps would be tried again and again.
        min_step, max_step: bounds of the size; a step of the least size is accepted whatever its error.
        proportional, integral, derivative: the coefficients P, I, D.

    Source: Soderlind 2003; Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4.

    >>> StepControl().next_size(1.0, [32.0], order=5, accepted=False)
    0.45
    """

    safety: float = 0.9
    grow: float = 10.0
    shrink: float = 0.2
    min_step: float = 0.0
    max_step: float = math.inf
    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.safety <= 1:
            raise ConfigurationError(f"safety must be in (0, 1], got {self.safety}")
        if not 0 < self.shrink <= 1 <= self.grow:
            raise ConfigurationError(
                f"a step must shrink by a factor in (0, 1] (dfactor) and grow by one of at least 1 (ifactor), got "
                f"{self.shrink} and {self.grow}"
            )
        if not 0 <= self.min_step <= self.max_step:
            raise ConfigurationError(
                f"min_step must be at least 0 and at most max_step, got {self.min_step} and {self.max_step}"
            )

    @classmethod
    def of(cls, settings: Adaptive) -> "StepControl":
        """The controller that an adaptive integrator asks for."""
        return cls(**{each.name: getattr(settings, each.name) for each in dataclasses.fields(cls)})

    @property
    def powers(self) -> tuple[float, float, float]:
        """The exponents b of the newest error ratios."""
        return (
            self.proportional + self.integral + self.derivative,
            -(self.proportional + 2 * self.derivative),
            self.derivative,
        )

    def clamp(self, size: float) -> float:
        """A size within the bounds; what is not finite becomes the least size."""
        if not math.isfinite(size):
            return self.min_step
        return min(max(size, self.min_step), self.max_step)

    def next_size(
        self, size: float, ratios: list[float], order: int, *, accepted: bool, was_rejected: bool = False
    ) -> float:
        """The size of the next step.

        Args:
            size: of the last step, positive.
            ratios: error ratios, the newest first; those of accepted steps beyond it.
            order: power of h of the error estimate.
            accepted: whether the last step was.
            was_rejected: whether the attempt before it was rejected.
        """
        grow = 1.0 if was_rejected else self.grow
        if ratios[0] == 0:
            return self.clamp(size * grow)
        factor = self.safety
        for power, ratio in zip(self.powers, ratios, strict=False):
            if power and ratio != 0:
                factor *= ratio ** (-power / order)
        # A ratio that is not a number comes from a state that is not: a shorter step may still succeed.
        factor = self.shrink if math.isnan(factor) else min(grow, max(factor, 1.0 if accepted else self.shrink))
        return self.clamp(size * factor)

    def next_sizes(self, sizes: Tensor, ratios: Sequence[Tensor], order: int, was_rejected: Tensor) -> Tensor:
        """The size of the next step of each sample: :meth:`next_size` in tensors; ratios of at most 1 are accepted."""
        factor = torch.full_like(sizes, self.safety)
        for power, ratio in zip(self.powers, ratios, strict=True):
            if power:
                # A vanishing error lets the step grow by as much as it may.
                factor = factor * ratio.to(sizes.dtype).clamp_min(1e-30) ** (-power / order)
        least = torch.where(ratios[0] <= 1, 1.0, self.shrink)
        most = torch.where(was_rejected, 1.0, self.grow)
        factor = torch.minimum(torch.maximum(factor.nan_to_num(nan=self.shrink), least), most)
        return (sizes * factor).clamp(self.min_step, self.max_step)
