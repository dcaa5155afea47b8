"""Rates that are known, of which sequences of events are drawn to see what is learnt of them."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.functional import odeint
from dynamicblocks.memory import check_memory
from dynamicblocks.registry import Registry

TOLERANCE = 1e-10
# Between points of a path. Cubics between states, and Simpson's rule, then err by less than 1e-8.
STEP = 0.02
# In memory while the integral is taken: times and rates, and states and slopes of a pendulum.
NUMBERS_OF_A_POINT = 8


class RatePath(ABC):
    """The rates of some sequences through a window."""

    def __init__(self, number: int, t0: float, t1: float) -> None:
        intervals = 2 * math.ceil((t1 - t0) / STEP / 2)
        check_memory(NUMBERS_OF_A_POINT * 8 * number * intervals, f"rates of {number:,} sequences on [{t0:g}, {t1:g}]")
        self.number = number
        self.grid = torch.linspace(t0, t1, intervals + 1, dtype=torch.float64)

    @abstractmethod
    def __call__(self, times: Tensor) -> Tensor:
        """Rates (n, length) at times of each sequence, of the same shape."""

    def integral(self) -> Tensor:
        """(n,), over the window: Simpson's rule."""
        rates = self(self.grid.expand(self.number, -1))
        weights = torch.full_like(self.grid, 2.0)
        weights[1::2] = 4.0
        weights[[0, -1]] = 1.0
        return rates @ weights * (self.grid[1] - self.grid[0]) / 3


class KnownRate(ABC):
    """A rate that may depend on numbers that each sequence has."""

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    """Names of these numbers."""
    bound: ClassVar[float]
    """Above which the rate is nowhere."""
    formula: ClassVar[str]

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """The numbers of so many sequences, (number, columns)."""
        return torch.zeros(number, 0, dtype=torch.float64)

    @abstractmethod
    def along(self, initial: Tensor, t0: float, t1: float) -> RatePath:
        """The rates of sequences of these numbers, which hold at ``t0``."""


known_rates: Registry[KnownRate] = Registry("set of events")


class _OfTime(RatePath):
    def __init__(self, number: int, t0: float, t1: float, amplitude: float, period: float) -> None:
        super().__init__(number, t0, t1)
        self.amplitude, self.period = amplitude, period

    def __call__(self, times: Tensor) -> Tensor:
        return BASE * (1 + self.amplitude * torch.sin(2 * math.pi / self.period * times))


BASE, AMPLITUDE, PERIOD, STRENGTH = 2.0, 0.8, 5.0, 0.9
# The largest angle and velocity at which a pendulum starts.
LARGEST = 1.5


@known_rates.register("constant")
class Constant(KnownRate):
    """Two events in a unit of time, always."""

    name = "constant"
    bound = BASE
    formula = f"lambda = {BASE:g}"

    def along(self, initial: Tensor, t0: float, t1: float) -> RatePath:
        return _OfTime(len(initial), t0, t1, 0.0, PERIOD)


@known_rates.register("sinusoidal")
class Sinusoidal(KnownRate):
    """A rate that goes up and down with time."""

    name = "sinusoidal"
    bound = BASE * (1 + AMPLITUDE)
    formula = f"lambda = {BASE:g} (1 + {AMPLITUDE:g} sin(2 pi t / {PERIOD:g}))"

    def along(self, initial: Tensor, t0: float, t1: float) -> RatePath:
        return _OfTime(len(initial), t0, t1, AMPLITUDE, PERIOD)


class _OfPendulum(RatePath):
    """Cubics between the states of pendulums, which an ODE solver gave."""

    def __init__(self, initial: Tensor, t0: float, t1: float) -> None:
        super().__init__(len(initial), t0, t1)
        with torch.no_grad():
            states: Tensor = odeint(pendulum, initial, self.grid, method="dopri8", rtol=TOLERANCE, atol=TOLERANCE)
        self.angles, self.velocities = states.permute(2, 1, 0)

    def __call__(self, times: Tensor) -> Tensor:
        step = self.grid[1] - self.grid[0]
        place = ((times - self.grid[0]) / step).long().clamp(0, len(self.grid) - 2)
        x = (times - self.grid[place]) / step
        a0, a1 = (self.angles.gather(1, place + next) for next in (0, 1))
        v0, v1 = (self.velocities.gather(1, place + next) * step for next in (0, 1))
        # Hermite's cubic through angles and velocities at both ends.
        rise = a1 - a0
        angle = a0 + x * (v0 + x * (3 * rise - 2 * v0 - v1 + x * (v0 + v1 - 2 * rise)))
        return BASE * (STRENGTH * angle.sin()).exp()


def pendulum(t: Tensor, state: Tensor) -> Tensor:
    """Angle and velocity, (..., 2)."""
    angle, velocity = state.unbind(-1)
    return torch.stack([velocity, -angle.sin()], -1)


@known_rates.register("state_driven")
class StateDriven(KnownRate):
    """A rate that follows the angle of a pendulum, which is known at the beginning of the window."""

    name = "state_driven"
    columns = ("angle", "velocity")
    bound = BASE * math.exp(STRENGTH)
    formula = f"lambda = {BASE:g} exp({STRENGTH:g} sin(angle)), angle'' = -sin(angle)"

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        return LARGEST * (2 * torch.rand(number, 2, generator=generator, dtype=torch.float64) - 1)

    def along(self, initial: Tensor, t0: float, t1: float) -> RatePath:
        return _OfPendulum(initial, t0, t1)
