"""Fehlberg's method of order two."""

from dynamicblocks.torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver


class Fehlberg2(RKAdaptiveStepsizeODESolver):
    """Fehlberg's method of order two."""

    package_method, order = "fehlberg2", 2
