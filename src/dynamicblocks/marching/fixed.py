"""The loop over a fixed grid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from dynamicblocks.integrators import Carry, Integrator, Stage
from dynamicblocks.times import Grid


class SteppedField(Protocol):
    """What the loop asks of a right-hand side."""

    def on_step(self, step: int) -> Stage:
        """The field on one step of the grid."""
        ...

    def projection(self, step: int, y: Tensor) -> Tensor:
        """The map that follows that step (perhaps the identity)."""
        ...

    def layers_read(self, steps: Iterable[int], fractions: Sequence[float]) -> list[nn.Module]:
        """The modules that those steps evaluate."""
        ...


@dataclass(frozen=True)
class FixedMarch:
    """An integrator marched over the steps of a grid. Gradient modes decide which parts are run when, and kept."""

    field: SteppedField
    integrator: Integrator
    grid: Grid

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.grid.steps

    def start(self, y: Tensor) -> Carry:
        """The carry before the first step."""
        return self.integrator.init(y)

    def advance(self, carry: Carry, first: int, last: int) -> Carry:
        """The carry after the steps ``first, ..., last - 1``."""
        for step in range(first, last):
            before, after = self.grid.points[step : step + 2]
            carry = self.integrator.advance(self.field.on_step(step), after - before, carry)
            carry = self.integrator.amend(carry, partial(self.field.projection, step))
        return carry

    def state(self, carry: Carry) -> Tensor:
        """The state that a carry holds."""
        return self.integrator.finish(carry)

    def layers_read(self, first: int, last: int) -> list[nn.Module]:
        """The modules that the steps ``first, ..., last - 1`` evaluate."""
        return self.field.layers_read(range(first, last), self.integrator.fractions)


class CountedField:
    """A field whose evaluations are counted.

    Args:
        field: the field.
    """

    def __init__(self, field: SteppedField) -> None:
        self.field, self.count = field, 0

    def on_step(self, step: int) -> Stage:
        inner = self.field.on_step(step)

        def stage(fraction: float, y: Tensor) -> Tensor:
            self.count += 1
            return inner(fraction, y)

        return stage

    def projection(self, step: int, y: Tensor) -> Tensor:
        return self.field.projection(step, y)

    def layers_read(self, steps: Iterable[int], fractions: Sequence[float]) -> list[nn.Module]:
        return self.field.layers_read(steps, fractions)
