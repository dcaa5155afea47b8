"""Linear maps from the controls of one basis to those of another."""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.controls.alignment import SAME_TIME
from dynamicblocks.controls.basis import Basis, Terms
from dynamicblocks.errors import ConfigurationError

Matrix = NDArray[np.float64]

# Entries below this are rounding errors of the least-squares solve.
NEGLIGIBLE = 1e-13


def terms_at(basis: Basis, time: float) -> Terms:
    """The nonzero basis functions at a time (the limit from the right at a knot, from the left at the end)."""
    knots = basis.points
    interval = min(max(bisect_right(knots, time) - 1, 0), len(knots) - 2)
    left, right = knots[interval], knots[interval + 1]
    return basis.terms(interval, min(max((time - left) / (right - left), 0.0), 1.0))


def values(basis: Basis, times: list[float]) -> Matrix:
    """The matrix phi_k(t_j), one row a time."""
    matrix = np.zeros((len(times), basis.size_of(len(basis.points) - 1)))
    for row, time in enumerate(times):
        for index, weight in terms_at(basis, time):
            matrix[row, index] += weight
    return matrix


def refinement_matrix(old: Basis, new: Basis) -> Matrix:
    """The controls of a basis that contains ``old``, exactly: theta read at the new basis's nodes."""
    return values(old, list(new.nodes))


def projection_matrix(old: Basis, new: Basis) -> Matrix:
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
    times = (breaks[:-1, None] + half + half * abscissae).ravel()
    root = np.sqrt((half * weights).ravel())[:, None]
    matrix, *_ = np.linalg.lstsq(root * values(new, times.tolist()), root * values(old, times.tolist()), rcond=None)
    return np.where(np.abs(matrix) < NEGLIGIBLE, 0.0, matrix)
