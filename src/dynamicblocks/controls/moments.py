"""Means and variances of controls from those that were seen where the controls are blended."""

import numpy as np

from dynamicblocks.controls.basis import Matrix

# The variance of a control is no smaller than this share of the least that was seen: its layer must not amplify where
# it is read alone.
LEAST_SHARE = 0.1
# Combinations of controls of which the places see less than this share are left at the mean.
UNSEEN = 1e-6


def fitted_moments(weights: Matrix, counts: Matrix, means: Matrix, variances: Matrix) -> tuple[Matrix, Matrix]:
    """Moments m_k and v_k of the controls such that sum_k w_sk m_k and sum_k w_sk v_k are those seen at place s.

    Where the places are more than the controls and leave no such moments, those of least squares (with non-negative
    weights, the running means of a training come to rest there too); what the means then miss counts as variance.
    Where the places are fewer, the moments nearest to the mean of all.

    Args:
        weights: the basis functions at the places.
        counts: how often each place was seen.
        means, variances: what was seen there.

    Shapes:
        weights (places, controls), counts (places), means and variances (places, channels)
        -> two of (controls, channels).

    >>> halves = np.array([[1.0, 0.0], [0.5, 0.5]])
    >>> [x.round(6).tolist() for x in fitted_moments(halves, np.ones(2), np.ones((2, 1)), np.array([[2.0], [3.0]]))]
    [[[1.0], [1.0]], [[2.0], [4.0]]]
    """
    root = np.sqrt(counts)[:, None]
    matrix = root * weights
    m = least_squares(matrix, root * means, counts @ means / counts.sum())
    squares = variances + (means - weights @ m) ** 2
    start = counts @ squares / counts.sum()
    v = least_squares(matrix, root * squares, start)
    least = LEAST_SHARE * variances.min(axis=0)
    for channel in np.flatnonzero((v < least).any(axis=0)):
        v[:, channel] = bounded(matrix, root[:, 0] * squares[:, channel], v[:, channel], start[channel], least[channel])
    return m, v


def least_squares(matrix: Matrix, target: Matrix, start: Matrix | float) -> Matrix:
    """The x that minimises |A x - b|^2; of several the one nearest to x_k = ``start``."""
    change = target - np.multiply.outer(matrix.sum(axis=1), start)
    return start + np.linalg.lstsq(matrix, change, rcond=UNSEEN)[0]


def bounded(matrix: Matrix, target: Matrix, x: Matrix, start: float, least: float) -> Matrix:
    """The x that minimises |A x - b|^2 with every x_k at least ``least``, found from the one without that bound.

    An active-set method (Lawson & Hanson 1974): entries are held at the bound or free, until no free one would cross
    it and no held one would leave it.
    """
    free = x > least
    x = np.maximum(x, least)
    for _ in range(4 * len(x)):
        best = np.full_like(x, least)
        if free.any():
            best[free] = least_squares(matrix[:, free], target - least * matrix[:, ~free].sum(axis=1), start)
        crossing = np.flatnonzero(best < least)
        if len(crossing):
            # As far towards the best as the bound allows; the entry that meets it is held there.
            ways = (x[crossing] - least) / (x[crossing] - best[crossing])
            x = np.maximum(x + ways.min() * (best - x), least)
            free[crossing[ways.argmin()]] = False
            continue
        x = best
        slope = np.where(free, 0.0, matrix.T @ (target - matrix @ x))
        if slope.max() <= 1e-12 * np.abs(matrix.T @ target).max():
            break
        free[slope.argmax()] = True
    return x
