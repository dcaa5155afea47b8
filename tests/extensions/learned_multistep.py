"""A linear two-step method with one trainable coefficient a step (Lu et al. 2018, arXiv:1710.10121)."""

import torch
from torch import nn

from dynamicblocks.integrators import Integrator


class LearnedMultistep(nn.Module, Integrator):
    """u(n+1) = (1 - k_n) u_n + k_n u(n-1) + h f(u_n), with k_n = 0 at first: Euler's method."""

    name = "learned_multistep"
    order = 1
    reads = ((0.0, "field"),)

    def __init__(self, k=(0.0,)):
        super().__init__()
        self.k = nn.Parameter(torch.as_tensor(k).detach().clone())

    def for_block(self, steps, width):
        return LearnedMultistep(torch.zeros(steps))

    def refined(self, factor):
        return LearnedMultistep(self.k.repeat_interleave(factor))

    @property
    def unused_weights(self):
        """Nothing comes before the first step."""
        return ("k",) if len(self.k) == 1 else ()

    def begin(self, stage, h, y):
        return y, y, 0

    def advance(self, stage, h, carry):
        u, before, n = carry
        return u + self.k[n] * (before - u) + h * stage(0.0, u), u, n + 1
