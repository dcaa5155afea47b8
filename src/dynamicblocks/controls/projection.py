"""Linear maps from the controls of one basis to those of another."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.controls.alignment import SAME_TIME, Location
from dynamicblocks.errors import ConfigurationError

# Entries below this are rounding errors of the least-squares solve.
NEGLIGIBLE = 1e-13


class Functions(Protocol):
    """What of a basis is projected."""

    @property
    def points(self) -> tuple[float, ...]:
        """The knots."""

    @property
    def degree(self) -> int:
        """Of the functions between them."""

    def place(self, time: float, /) -> Location:
        """The place of a time between the knots."""

    def values(self, places: Sequence[Location], /) -> NDArray[np.float64]:
        """The functions at these places, one row a place."""


def projection_matrix(old: Functions, new: Functions) -> NDArray[np.float64]:
    r"""The least-squares projection P: controls theta of ``old`` become P theta, controls of ``new``.

    P theta minimises the integral over time of | sum_j psi_j(t) (P theta)_j - sum_k phi_k(t) theta_k |^2, by Gauss
    quadrature that is exact for both bases on the union of their knots. Where ``new`` contains ``old``, theta(t) is
    reproduced (to rounding).

    Raises:
        ConfigurationError: the two bases do not span the same times.
    """
    (a, b), (c, d) = (old.points[0], old.points[-1]), (new.points[0], new.points[-1])
    if max(abs(a - c), abs(b - d)) > SAME_TIME * (b - a):
        raise ConfigurationError(f"the old controls span [{a}, {b}] and the new ones [{c}, {d}]; they must be the same")
    breaks = np.unique([*old.points, *new.points])
    breaks = breaks[np.concatenate(([True], np.diff(breaks) > 1e-12 * (b - a)))]
    abscissae, weights = np.polynomial.legendre.leggauss(max(old.degree, new.degree) + 1)
    half = np.diff(breaks)[:, None] / 2
    times = (breaks[:-1, None] + half + half * abscissae).ravel().tolist()
    root = np.sqrt((half * weights).ravel())[:, None]
    before, after = (root * basis.values([basis.place(time) for time in times]) for basis in (old, new))
    matrix, *_ = np.linalg.lstsq(after, before, rcond=None)
    return np.where(np.abs(matrix) < NEGLIGIBLE, 0.0, matrix)
