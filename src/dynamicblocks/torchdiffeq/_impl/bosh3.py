"""Bogacki and Shampine's method of order three."""

from dynamicblocks.torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver


class Bosh3Solver(RKAdaptiveStepsizeODESolver):
    """Bogacki and Shampine's method of order three."""

    package_method, order = "bosh3", 3
