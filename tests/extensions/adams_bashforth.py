"""The two-step method of Adams and Bashforth on unequal steps."""

import math

from dynamicblocks.integrators import Integrator


class AdamsBashforth(Integrator):
    """y1 = y0 + h f0 + (h^2 / 2) (f0 - f(-1)) / h(-1)."""

    name = "own_adams_bashforth"
    order = 2
    reads = ((0.0, "field"),)

    def begin(self, stage, h, y):
        # A slope from infinitely long ago has no weight: the first step is Euler's.
        return y, y, math.inf

    def advance(self, stage, h, carry):
        y, before, previous = carry
        slope = stage(0.0, y)
        return y + h * slope + h * h / (2 * previous) * (slope - before), slope, h

    def restart(self, stage, h, carry):
        return carry[0], carry[1], math.inf
