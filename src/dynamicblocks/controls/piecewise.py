"""Weights in pieces between knots: constant, linear, linear with jumps."""

from dynamicblocks.controls.alignment import Location
from dynamicblocks.controls.basis import Basis, Terms, bases


@bases.register("constant")
class PiecewiseConstant(Basis):
    """theta(t) = theta_k for t between knot k and knot k + 1: K controls on K intervals.

    With Euler and one unit step for each control, this is the ordinary residual network.

    >>> from dynamicblocks.times import uniform
    >>> PiecewiseConstant(3).over(uniform(0, 6, steps=6)).knots
    (0.0, 2.0, 4.0, 6.0)
    """

    name = "constant"
    degree = 0

    def size_of(self, intervals: int) -> int:
        return intervals

    @property
    def nodes(self) -> tuple[Location, ...]:
        """The middles of the intervals."""
        return tuple(Location(interval, 0.5) for interval in range(self.count))

    def terms(self, interval: int, fraction: float) -> Terms:
        return ((interval, 1.0),)


@bases.register("linear")
class PiecewiseLinear(Basis):
    """theta(t) = (1 - s) theta_k + s theta_{k+1} between knots, continuous: K controls at K knots, hat functions.

    >>> basis = PiecewiseLinear(knots=(0, 1, 4))
    >>> basis.size, basis.terms(1, 0.25)
    (3, ((1, 0.75), (2, 0.25)))
    """

    name = "linear"
    degree = 1

    def size_of(self, intervals: int) -> int:
        return intervals + 1

    @property
    def nodes(self) -> tuple[Location, ...]:
        """The knots."""
        last = self.count - 2
        return (*(Location(interval, 0.0) for interval in range(last + 1)), Location(last, 1.0))

    def terms(self, interval: int, fraction: float) -> Terms:
        return _between(interval, interval + 1, fraction)


@bases.register("discontinuous_linear")
class DiscontinuousLinear(Basis):
    """theta(t) = (1 - s) theta_{2k} + s theta_{2k+1} on interval k: a line of its own, with a jump at each knot.

    Two controls an interval, the values at its two ends seen from inside. It contains the constant and the continuous
    linear pieces on the same knots.

    >>> basis = DiscontinuousLinear(knots=(0, 1, 4))
    >>> basis.size, basis.terms(0, 1.0), basis.terms(1, 0.0), basis.terms(1, 0.25)
    (4, ((1, 1.0),), ((2, 1.0),), ((2, 0.75), (3, 0.25)))
    """

    name = "discontinuous_linear"
    degree = 1

    def size_of(self, intervals: int) -> int:
        return 2 * intervals

    @property
    def nodes(self) -> tuple[Location, ...]:
        """Both ends of every interval."""
        return tuple(Location(interval, end) for interval in range(self.count // 2) for end in (0.0, 1.0))

    def terms(self, interval: int, fraction: float) -> Terms:
        return _between(2 * interval, 2 * interval + 1, fraction)


def _between(here: int, there: int, fraction: float) -> Terms:
    """A share of each of two controls, or one alone at its own place: there nothing is blended."""
    if fraction <= 0.0:
        return ((here, 1.0),)
    if fraction >= 1.0:
        return ((there, 1.0),)
    return (here, 1.0 - fraction), (there, fraction)
