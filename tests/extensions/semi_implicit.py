"""A step that is implicit in the stiff part of a layer, which solves for itself."""

from typing import ClassVar

import torch
from torch import nn

from dynamicblocks.integrators import Integrator


class SemiImplicit(Integrator):
    """y1 = (1 + h L)^-1 (y0 + h f(y0)), for dy/dt = f(y) - L y; the layer has the inverse."""

    name = "semi_implicit"
    order = 1
    reads = ((0.0, "field"), (1.0, "solve"))

    def advance(self, stage, h, carry):
        return stage.part("solve", 1.0, carry + h * stage(0.0, carry), h)


class Damped(nn.Module):
    """f(y) = tanh(W y), damped by the rates L = rate^2, one for each channel."""

    parts: ClassVar = {"field": "forward", "solve": "solve"}

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.rate = nn.Parameter(torch.randn(width))

    def forward(self, y):
        return torch.tanh(self.mix(y))

    def solve(self, y, h):
        return y / (1 + h * self.rate**2)
