"""Dormand and Prince's method of order eight."""

from dynamicblocks.torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver


class Dopri8Solver(RKAdaptiveStepsizeODESolver):
    """Dormand and Prince's method of order eight."""

    package_method, order = "dopri8", 8
