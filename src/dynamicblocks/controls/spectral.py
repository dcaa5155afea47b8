"""Bases of functions of the whole span, of which there may be any number: polynomials, waves."""

from dataclasses import replace
from typing import ClassVar, Self

from dynamicblocks.controls.basis import Basis, no_depth
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import Grid, check_count, uniform


class Spectral(Basis):
    """A basis that is not cut into pieces: one interval, whatever the number of controls; its two ends are the knots.

    A basis of one's own needs :attr:`degree` and :meth:`terms`; the first K functions must be those of K controls.
    """

    # What it is made of, for errors.
    kind: ClassVar[str] = "one piece"

    def _match(self) -> None:
        if self.knots is not None and len(self.knots) != 2:
            raise ConfigurationError(
                f"{type(self).__name__} is {self.kind} over the whole span, so its knots are the two ends, "
                f"got {len(self.knots)} knots"
            )

    def size_of(self, intervals: int) -> int:
        """Number of controls by default, for so many intervals of time: any would do."""
        return intervals

    def _intervals_of(self, size: int) -> int:
        return 1

    def over(self, grid: Grid) -> Self:
        """The basis with knots, by default the ends of the grid, and a size, by default the number of its steps."""
        size = self.size_of(grid.steps) if self.size is None else self.size
        return replace(self, size=size, knots=grid.span if self.knots is None else self.knots)

    def unit_grid(self) -> Grid:
        """As many equal steps as controls, of length 1 where there are no knots yet.

        Raises:
            ConfigurationError: without a size there is nothing to count.
        """
        if self.size is None:
            raise no_depth()
        return uniform(*(self.knots or (0.0, float(self.size))), steps=self.size)

    def refine(self, factor: int = 2) -> Self:
        """``factor`` times as many controls on the same span; the new basis contains this one."""
        check_count(factor, "the refinement factor", least=2)
        return replace(self, size=self.count * factor)

    def with_intervals(self, count: int) -> Self:
        """The basis with ``count`` controls on the same span: it is not cut into intervals."""
        return replace(self, size=self.size_of(check_count(count, "the number of control intervals")))

    def coarsen(self, factor: int = 2) -> Self:
        """A ``factor``-th of the controls.

        Raises:
            ConfigurationError: the number of controls is no multiple of ``factor``.
        """
        check_count(factor, "the coarsening factor", least=2)
        if self.count % factor:
            raise ConfigurationError(f"{self.count} controls of {self.kind} cannot be divided by {factor}")
        return replace(self, size=self.count // factor)
