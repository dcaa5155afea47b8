"""Heun's method of order two with an estimate of its error."""

from dynamicblocks.torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver


class AdaptiveHeunSolver(RKAdaptiveStepsizeODESolver):
    """Heun's method of order two with an estimate of its error."""

    package_method, order = "adaptive_heun", 2
