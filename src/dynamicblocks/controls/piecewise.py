"""Piecewise constant and piecewise linear weights in time."""

from dataclasses import dataclass
from itertools import pairwise

from dynamicblocks.controls.basis import Basis, Terms, bases


@bases.register("constant")
@dataclass(frozen=True)
class PiecewiseConstant(Basis):
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

    def terms(self, interval: int, fraction: float) -> Terms:
        return ((interval, 1.0),)

    @property
    def nodes(self) -> tuple[float, ...]:
        return tuple((a + b) / 2 for a, b in pairwise(self.points))

    def distances(self) -> tuple[float, ...]:
        return tuple(b - a for a, b in pairwise(self.nodes))


@bases.register("linear")
@dataclass(frozen=True)
class PiecewiseLinear(Basis):
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

    def terms(self, interval: int, fraction: float) -> Terms:
        # At a knot one control alone is read: nothing is blended.
        if fraction <= 0.0:
            return ((interval, 1.0),)
        if fraction >= 1.0:
            return ((interval + 1, 1.0),)
        return (interval, 1.0 - fraction), (interval + 1, fraction)

    @property
    def nodes(self) -> tuple[float, ...]:
        return self.points

    def distances(self) -> tuple[float, ...]:
        return tuple(b - a for a, b in pairwise(self.points))
