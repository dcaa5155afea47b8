"""The method of Stoermer and Verlet, for states of two halves that move each other."""

from typing import ClassVar

import torch
from torch import nn

from dynamicblocks.integrators import Integrator


class Verlet(Integrator):
    """For dq/dt = f1(p) and dp/dt = f2(q), of which the channels are q and p: half a kick, a drift, half a kick."""

    name = "own_verlet"
    order = 2
    reads = ((0.0, "second_half"), (0.5, "first_half"), (1.0, "second_half"))

    def advance(self, stage, h, carry):
        q, p = carry.chunk(2, dim=1)
        p = p + h / 2 * stage.part("second_half", 0.0, q)
        q = q + h * stage.part("first_half", 0.5, p)
        return torch.cat([q, p + h / 2 * stage.part("second_half", 1.0, q)], dim=1)


class Halves(nn.Module):
    """Two small networks, each of one half."""

    parts: ClassVar = {"first_half": "f1", "second_half": "f2"}

    def __init__(self, width):
        super().__init__()
        self.f1, self.f2 = (nn.Sequential(nn.Linear(width // 2, width // 2), nn.Tanh()) for _ in range(2))
