"""Methods for two halves of a state that move each other: dy/dt = first(z), dz/dt = second(y).

The halves are those of the channels: of the second dimension, or of the only one. ``first`` and ``second`` are parts of
the layer, each a function of one half. A half is moved by what the other one is, so each move can be taken back.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import add_scaled

FIRST, SECOND = "first", "second"
"""The parts: the slope of the first half, as a function of the second, and that of the second."""


@dataclass(frozen=True)
class Halves:
    """What these methods carry.

    Args:
        y: the first half of the state.
        z: the second.
    """

    y: Tensor
    z: Tensor


def split(state: Tensor, name: str) -> Halves:
    """The halves of a state for the method of that name."""
    channels = state.shape[_axis(state)] if state.dim() else 1
    if channels % 2:
        raise ConfigurationError(
            f"{name} moves two halves of the channels by each other, and a state of shape {tuple(state.shape)} has an "
            "odd number of them; take an even width"
        )
    # Of a view, whose channels have gaps, normalisations and their gradients take several times as long on a CPU.
    return Halves(*(half.clone() for half in state.chunk(2, dim=_axis(state))))


def join(halves: Halves) -> Tensor:
    """The state of two halves."""
    return torch.cat((halves.y, halves.z), dim=_axis(halves.y))


def _axis(state: Tensor) -> int:
    return min(1, state.dim() - 1)


class Partitioned(Integrator):
    """A method that moves the halves in turn."""

    @property
    @abstractmethod
    def moves(self) -> tuple[tuple[str, float, float], ...]:
        """Of a step, in turn: the part that moves its half, the fraction at which it is read, the share of the step."""

    @property
    def reads(self) -> Reads:
        return tuple((c, part) for part, c, _ in self.moves)

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Halves:
        return split(y, self.name)

    def resumed(self, y: Tensor) -> Halves:
        return split(y, self.name)

    def finish(self, carry: Halves) -> Tensor:
        return join(carry)

    def amend(self, carry: Halves, change: Callable[[Tensor], Tensor]) -> Halves:
        return split(change(join(carry)), self.name)

    def advance(self, stage: Stage, h: Size, carry: Halves) -> Halves:
        y, z = carry.y, carry.z
        for part, c, share in self.moves:
            if part == FIRST:
                y = add_scaled(y, [stage.part(part, c, z)], [share], h)
            else:
                z = add_scaled(z, [stage.part(part, c, y)], [share], h)
        return Halves(y, z)

    def unstep(self, stage: Stage, h: Size, carry: Halves) -> Halves:
        y, z = carry.y, carry.z
        for part, c, share in reversed(self.moves):
            if part == FIRST:
                y = add_scaled(y, [stage.part(part, c, z)], [-share], h)
            else:
                z = add_scaled(z, [stage.part(part, c, y)], [-share], h)
        return Halves(y, z)


@dataclass(frozen=True)
class SymplecticEuler(Partitioned):
    """The symplectic Euler method: the second half moves by what the first half has become.

        y1 = y0 + h first(t0, z0),    z1 = z0 + h second(t0, y1)

    Both read the weights at the begin of the step, as Euler's method does. With unit steps it is the network of
    Chang et al. 2018, arXiv:1709.03698.

    >>> import torch
    >>> from dynamicblocks.integrators import as_integrator
    >>> as_integrator("symplectic_euler").reads
    ((0.0, 'first'), (0.0, 'second'))
    """

    moves: ClassVar = ((FIRST, 0.0, 1.0), (SECOND, 0.0, 1.0))

    @property
    def name(self) -> str:
        return "symplectic_euler"

    @property
    def order(self) -> int:
        return 1


@dataclass(frozen=True)
class Verlet(Partitioned):
    """The method of Stoermer and Verlet: half a kick, a drift, half a kick.

        z' = z0 + h/2 second(t0, y0),    y1 = y0 + h first(t0 + h/2, z'),    z1 = z' + h/2 second(t1, y1)

    Of order two for weights that depend on time, too.

    Source: Hairer, Lubich and Wanner 2003, Acta Numerica 12.

    >>> from dynamicblocks.integrators import as_integrator
    >>> as_integrator("verlet").evaluations
    3
    """

    moves: ClassVar = ((SECOND, 0.0, 0.5), (FIRST, 0.5, 1.0), (SECOND, 1.0, 0.5))

    @property
    def name(self) -> str:
        return "verlet"

    @property
    def order(self) -> int:
        return 2
