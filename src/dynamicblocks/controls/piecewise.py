"""Weights in pieces between knots: constant, linear, linear with jumps."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

from dynamicblocks.controls.alignment import Location
from dynamicblocks.controls.basis import Basis, Terms, bases, no_depth
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import Grid, check_count, subdivide, uniform


@dataclass(frozen=True)
class Piecewise(Basis):
    """A basis whose number of controls follows from its intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            possible = self.size_of(self.intervals_of(self.size))
            if possible != self.size:
                above = self.size_of(self.intervals_of(self.size) + 1)
                raise ConfigurationError(
                    f"{type(self).__name__}: no number of intervals makes {self.size} controls; "
                    f"{possible} or {above} would do"
                )
        if self.knots is not None:
            size = self.size_of(len(self.knots) - 1)
            if self.size not in (None, size):
                raise ConfigurationError(
                    f"{type(self).__name__}: {len(self.knots)} knots make {size} controls, but {self.size} were asked "
                    "for"
                )
            object.__setattr__(self, "size", size)

    @classmethod
    @abstractmethod
    def intervals_of(cls, size: int) -> int:
        """Number of intervals between knots that so many controls need."""

    @property
    def intervals(self) -> int | None:
        return None if self.size is None else self.intervals_of(self.size)

    def over(self, grid: Grid) -> Self:
        """The basis with knots: its own, or uniform over the grid's span, or (no size given) the grid's points."""
        if self.knots is not None:
            return self
        if self.intervals is None:
            return replace(self, knots=grid.points)
        return replace(self, knots=uniform(*grid.span, steps=self.intervals).points)

    def unit_grid(self) -> Grid:
        """One step for each interval between the knots, of length 1 where there are no knots yet."""
        if self.knots is not None:
            return Grid(self.knots)
        if self.intervals is None:
            raise no_depth()
        return uniform(0.0, float(self.intervals), steps=self.intervals)

    def refine(self, factor: int = 2) -> Self:
        """Every interval between knots cut into ``factor`` equal ones; the new basis contains the old."""
        check_count(factor, "the refinement factor", least=2)
        return replace(self, size=None, knots=subdivide(self.points, factor))

    def coarsen(self, factor: int = 2) -> Self:
        """Every ``factor`` neighbouring intervals joined to one.

        Raises:
            ConfigurationError: the number of intervals is no multiple of ``factor``.
        """
        check_count(factor, "the coarsening factor", least=2)
        intervals = len(self.points) - 1
        if intervals % factor:
            raise ConfigurationError(f"{intervals} intervals of controls cannot be joined by {factor}")
        return replace(self, size=None, knots=self.points[::factor])


@bases.register("constant")
@dataclass(frozen=True)
class PiecewiseConstant(Piecewise):
    """theta(t) = theta_k for t between knot k and knot k + 1: K controls on K intervals.

    With Euler and one unit step for each control, this is the ordinary residual network.

    >>> from dynamicblocks.times import uniform
    >>> PiecewiseConstant(3).over(uniform(0, 6, steps=6)).knots
    (0.0, 2.0, 4.0, 6.0)
    """

    name = "constant"

    @classmethod
    def size_of(cls, intervals: int) -> int:
        return intervals

    @classmethod
    def intervals_of(cls, size: int) -> int:
        return size

    @property
    def degree(self) -> int:
        return 0

    @property
    def nodes(self) -> tuple[Location, ...]:
        """The middles of the intervals."""
        return tuple(Location(interval, 0.5) for interval in range(self.count))

    def terms(self, interval: int, fraction: float) -> Terms:
        return ((interval, 1.0),)


@bases.register("linear")
@dataclass(frozen=True)
class PiecewiseLinear(Piecewise):
    """theta(t) = (1 - s) theta_k + s theta_{k+1} between knots, continuous: K controls at K knots, hat functions.

    >>> basis = PiecewiseLinear(knots=(0, 1, 4))
    >>> basis.size, basis.terms(1, 0.25)
    (3, ((1, 0.75), (2, 0.25)))
    """

    name = "linear"

    @classmethod
    def size_of(cls, intervals: int) -> int:
        return intervals + 1

    @classmethod
    def intervals_of(cls, size: int) -> int:
        return size - 1

    @property
    def degree(self) -> int:
        return 1

    @property
    def nodes(self) -> tuple[Location, ...]:
        """The knots."""
        last = self.count - 2
        return (*(Location(interval, 0.0) for interval in range(last + 1)), Location(last, 1.0))

    def terms(self, interval: int, fraction: float) -> Terms:
        return _between(interval, interval + 1, fraction)


@bases.register("discontinuous_linear")
@dataclass(frozen=True)
class DiscontinuousLinear(Piecewise):
    """theta(t) = (1 - s) theta_{2k} + s theta_{2k+1} on interval k: a line of its own, with a jump at each knot.

    Two controls an interval, the values at its two ends seen from inside. It contains the constant and the continuous
    linear pieces on the same knots.

    >>> basis = DiscontinuousLinear(knots=(0, 1, 4))
    >>> basis.size, basis.terms(0, 1.0), basis.terms(1, 0.0), basis.terms(1, 0.25)
    (4, ((1, 1.0),), ((2, 1.0),), ((2, 0.75), (3, 0.25)))
    """

    name = "discontinuous_linear"

    @classmethod
    def size_of(cls, intervals: int) -> int:
        return 2 * intervals

    @classmethod
    def intervals_of(cls, size: int) -> int:
        return size // 2

    @property
    def degree(self) -> int:
        return 1

    @property
    def nodes(self) -> tuple[Location, ...]:
        """Both ends of every interval."""
        return tuple(Location(interval, end) for interval in range(self.count // 2) for end in (0.0, 1.0))

    def terms(self, interval: int, fraction: float) -> Terms:
        return _between(2 * interval, 2 * interval + 1, fraction)

    def distances(self) -> tuple[float, ...]:
        """The lengths of the intervals and, across a knot, the mean length of its two neighbours.

        No time passes across a knot. Measured as between two constant pieces, a jump costs a smoothness penalty what
        it costs there.
        """
        lengths = Grid(self.points).sizes
        jumps = ((a + b) / 2 for a, b in pairwise(lengths))
        inner = [length for pair in zip(lengths, jumps, strict=False) for length in pair]
        return (*inner, lengths[-1])


def _between(here: int, there: int, fraction: float) -> Terms:
    """A share of each of two controls, or one alone at its own place: there nothing is blended."""
    if fraction <= 0.0:
        return ((here, 1.0),)
    if fraction >= 1.0:
        return ((there, 1.0),)
    return (here, 1.0 - fraction), (there, fraction)
