"""Four stages of order three, each a convex combination of Euler steps (Spiteri & Ruuth 2002)."""

from dynamicblocks.integrators import RungeKutta, Tableau


def ssprk43():
    sixths = (1 / 6, 1 / 6, 1 / 6)
    return RungeKutta(Tableau("ssprk43", 3, ((), (1 / 2,), (1 / 2, 1 / 2), sixths), (*sixths, 1 / 2)))
