"""Linear maps from the controls of one basis to those of another."""

from typing import TYPE_CHECKING

import numpy as np

from dynamicblocks.controls.alignment import SAME_TIME
from dynamicblocks.errors import ConfigurationError

if TYPE_CHECKING:
    from dynamicblocks.controls.basis import Basis, Matrix

# Entries below this are rounding errors of the least-squares solve.
NEGLIGIBLE = 1e-13


def projection_matrix(old: "Basis", new: "Basis") -> "Matrix":
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
