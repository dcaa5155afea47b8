"""Controls and bases that several tests of weights in time share."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from numpy.polynomial import chebyshev, legendre
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Controls
from tests.optional import optional

(BSpline,) = optional("scipy.interpolate", "BSpline")
(roots_legendre,) = optional("scipy.special", "roots_legendre")

double = torch.float64
Constant, Linear = db.PiecewiseConstant, db.PiecewiseLinear
Discontinuous, Spline = db.DiscontinuousLinear, db.CubicBSpline
Legendre, Chebyshev = db.Legendre, db.Chebyshev
both_bases = pytest.mark.parametrize("kind", [Constant, Linear])
pieces = pytest.mark.parametrize("kind", [Constant, Linear, Discontinuous, Spline])
polynomials = pytest.mark.parametrize("kind", [Legendre, Chebyshev])


def knots_from(lengths, start=0.0):
    return tuple(start + math.fsum(lengths[:n]) for n in range(len(lengths) + 1))


knot_lists = st.lists(st.floats(0.05, 3), min_size=1, max_size=6).map(knots_from)


# The bases, written a second time: functions of time on arrays


def basis_functions(basis, times):
    """The matrix phi_k(t_j), one row a time; times lie between knots."""
    knots = np.array(basis.knots)
    if isinstance(basis, Linear):
        return np.stack([np.interp(times, knots, unit) for unit in np.eye(len(knots))], axis=1)
    if isinstance(basis, Spline):
        return BSpline.design_matrix(times, np.pad(knots, 3, mode="edge"), 3).toarray()
    if isinstance(basis, Legendre | Chebyshev):
        return polynomials_through(basis, (2 * np.asarray(times) - knots[0] - knots[1]) / (knots[1] - knots[0]))
    inside = np.stack([(a < times) & (times < b) for a, b in pairwise(knots)], axis=1).astype(float)
    if isinstance(basis, Constant):
        return inside
    share = (np.asarray(times)[:, None] - knots[:-1]) / np.diff(knots)
    return np.stack([inside * (1 - share), inside * share], axis=2).reshape(len(times), -1)


def polynomials_through(basis, x):
    """The polynomials on [-1, 1] that are one at a node and zero at the others, by way of orthogonal coefficients."""
    nodes, vandermonde = polynomial_nodes(basis), legendre.legvander
    if isinstance(basis, Chebyshev):
        vandermonde = chebyshev.chebvander
    return np.linalg.solve(vandermonde(nodes, basis.size - 1).T, vandermonde(x, basis.size - 1).T).T


def polynomial_nodes(basis):
    """The nodes in [-1, 1]."""
    if isinstance(basis, Legendre):
        return roots_legendre(basis.size)[0]
    return chebyshev.chebpts2(basis.size) if basis.size > 1 else np.zeros(1)


def curve(controls, name, times):
    """theta(t) of one parameter or buffer, one row a time."""
    values = np.stack([layer.state_dict()[name].numpy().ravel() for layer in controls.layers])
    return basis_functions(controls.basis, times) @ values


def times_between(*bases):
    """A few times strictly inside every interval between the knots of all bases."""
    knots = np.unique(np.concatenate([basis.knots for basis in bases]))
    return np.concatenate([a + (b - a) * np.array([0.1, 0.37, 0.8]) for a, b in pairwise(knots)])


def normed_layer(width=2):
    """A convolution and a normalisation whose weights and statistics are all random."""
    layer = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)).double()
    with torch.no_grad():
        layer[1].weight.normal_()
        layer[1].bias.normal_()
        layer[1].running_mean.normal_()
        layer[1].running_var.uniform_(0.5, 2.0)
        layer[1].num_batches_tracked.random_(1000)
    return layer


def normed_controls(basis):
    return Controls([normed_layer() for _ in range(basis.size)], basis)


class Scalar(nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=double))

    def forward(self, y):
        return self.theta * y


def scalar_controls(basis, values):
    return Controls([Scalar(*np.atleast_1d(value)) for value in values], basis)
