"""Continuous weights in time that are a parabola between neighbouring knots."""

from dynamicblocks.controls import Basis, Location


class Quadratic(Basis):
    """Through values at the knots, which neighbours share, and one in the middle of each interval."""

    name = "quadratic"
    degree = 2

    def size_of(self, intervals):
        return 2 * intervals + 1

    @property
    def nodes(self):
        inner = [Location(k // 2, k % 2 / 2) for k in range(self.count - 1)]
        return (*inner, Location(len(self.points) - 2, 1.0))

    def terms(self, interval, fraction):
        s = fraction
        weights = ((1 - s) * (1 - 2 * s), 4 * s * (1 - s), s * (2 * s - 1))
        # Without those that are zero, a value at a knot is its control as it is.
        return tuple((2 * interval + k, weight) for k, weight in enumerate(weights) if weight)
