"""Gradient modes: how the backward pass is made. They call the loop; the loop knows nothing of them."""

from dynamicblocks.gradients.backprop import Backprop
from dynamicblocks.gradients.base import Gradient, as_gradient, gradients
from dynamicblocks.gradients.checkpoint import Checkpoint

__all__ = ["Backprop", "Checkpoint", "Gradient", "as_gradient", "gradients"]
