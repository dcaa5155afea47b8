"""Gradient modes: how the backward pass is made. They run courses; the loops know nothing of them."""

from dynamicblocks.gradients.adjoint import Adjoint
from dynamicblocks.gradients.backprop import Backprop
from dynamicblocks.gradients.checkpoint import Checkpoint
from dynamicblocks.gradients.gradient import Course, Gradient, as_gradient, gradients
from dynamicblocks.gradients.inverse import inverse
from dynamicblocks.gradients.reversible import DriftError, Reversible

__all__ = [
    "Adjoint",
    "Backprop",
    "Checkpoint",
    "Course",
    "DriftError",
    "Gradient",
    "Reversible",
    "as_gradient",
    "gradients",
    "inverse",
]
