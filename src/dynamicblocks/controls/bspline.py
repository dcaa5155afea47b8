"""Weights that are a twice continuously differentiable cubic spline in time."""

from bisect import bisect_right

import numpy as np

from dynamicblocks.controls.alignment import Location
from dynamicblocks.controls.basis import Basis, Matrix, Terms, bases

DEGREE = 3


@bases.register("bspline")
class CubicBSpline(Basis):
    """theta(t) = sum_k B_k(t) theta_k with cubic B-splines on clamped knots: K - 3 intervals, theta in C^2.

    The functions are non-negative and sum to one, four of them on each interval, so that theta(t) lies among its four
    neighbouring controls. At the two ends it is the first and the last control; elsewhere controls are no values of
    theta but de Boor coefficients, which stand at the Greville abscissae: (theta_{k+1} - theta_k) / distance are
    exactly the coefficients of theta' in quadratic B-splines, and the smoothness penalty is never less than the
    integral of |theta'|^2.

    >>> CubicBSpline(knots=(0, 1, 2)).terms(0, 0.0)
    ((0, 1.0),)
    >>> [(k, round(weight, 3)) for k, weight in CubicBSpline(knots=(0, 1, 2)).terms(0, 1.0)]
    [(1, 0.25), (2, 0.5), (3, 0.25)]
    """

    name = "bspline"
    degree = DEGREE

    def size_of(self, intervals: int) -> int:
        return intervals + DEGREE

    @property
    def nodes(self) -> tuple[Location, ...]:
        """The Greville abscissae, means of three neighbouring knots: where the controls stand, though no values."""
        knots = clamped(self.points)
        return tuple(self.place(sum(knots[k + 1 : k + 1 + DEGREE]) / DEGREE) for k in range(self.count))

    def terms(self, interval: int, fraction: float) -> Terms:
        knots = clamped(self.points)
        here = interval + DEGREE
        time = self.time(Location(interval, fraction))
        weights = [1.0]
        for degree in range(1, DEGREE + 1):
            # Cox and de Boor: each function of the degree below is shared by its two neighbours of this degree.
            starts = range(here - degree + 1, here + 1)
            shares = [(time - knots[k]) / (knots[k + degree] - knots[k]) for k in starts]
            rising = [0.0, *(weight * share for weight, share in zip(weights, shares, strict=True))]
            falling = [*(weight * (1.0 - share) for weight, share in zip(weights, shares, strict=True)), 0.0]
            weights = [up + down for up, down in zip(rising, falling, strict=True)]
        return tuple((interval + k, weight) for k, weight in enumerate(weights) if weight != 0.0)

    def controls_from(self, old: Basis) -> Matrix:
        """The controls of a spline with more knots, by inserting them one by one (Boehm 1980)."""
        if not isinstance(old, CubicBSpline):
            return super().controls_from(old)
        knots = list(clamped(old.points))
        matrix = np.eye(old.count)
        for time in self.points:
            if time in knots:
                continue
            last = bisect_right(knots, time) - 1
            moved = range(last - DEGREE + 1, last + 1)
            shares = [(time - knots[k]) / (knots[k + DEGREE] - knots[k]) for k in moved]
            corners = [
                share * matrix[k] + (1.0 - share) * matrix[k - 1] for k, share in zip(moved, shares, strict=True)
            ]
            matrix = np.vstack([matrix[: moved[0]], *corners, matrix[last:]])
            knots.insert(last + 1, time)
        return matrix


def clamped(knots: tuple[float, ...]) -> tuple[float, ...]:
    """The knots with both ends counted four times."""
    return (knots[0],) * DEGREE + knots + (knots[-1],) * DEGREE
