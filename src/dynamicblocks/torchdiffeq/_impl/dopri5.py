"""Dormand and Prince's method of order five."""

from dynamicblocks.torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver


class Dopri5Solver(RKAdaptiveStepsizeODESolver):
    """Dormand and Prince's method of order five."""

    package_method, order = "dopri5", 5
