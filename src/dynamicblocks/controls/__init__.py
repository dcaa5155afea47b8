"""Weights in depth-time: theta(t) = sum_k phi_k(t) theta_k, a basis times copies of a layer."""

from dynamicblocks.controls.alignment import Alignment, Location
from dynamicblocks.controls.basis import Basis, Terms, as_basis, bases
from dynamicblocks.controls.bspline import CubicBSpline
from dynamicblocks.controls.controlled_field import ControlledField, ControlledStage
from dynamicblocks.controls.controls import Controls
from dynamicblocks.controls.piecewise import DiscontinuousLinear, PiecewiseConstant, PiecewiseLinear
from dynamicblocks.controls.polynomial import Chebyshev, Legendre, Polynomial
from dynamicblocks.controls.projection import projection_matrix
from dynamicblocks.controls.spectral import Spectral
from dynamicblocks.controls.timed_field import TimedField

__all__ = [
    "Alignment",
    "Basis",
    "Chebyshev",
    "ControlledField",
    "ControlledStage",
    "Controls",
    "CubicBSpline",
    "DiscontinuousLinear",
    "Legendre",
    "Location",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "Polynomial",
    "Spectral",
    "Terms",
    "TimedField",
    "as_basis",
    "bases",
    "projection_matrix",
]
