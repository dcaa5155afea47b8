"""Reversible networks of the user's own modules, and whether a module is what it says: invertible."""

from dynamicblocks.integrators import momentum_steps
from dynamicblocks.invertible.check import Invertibility, check_invertible
from dynamicblocks.invertible.sequential import AdditiveCoupling, AffineCoupling, MomentumNet, ReversibleSequential

__all__ = [
    "AdditiveCoupling",
    "AffineCoupling",
    "Invertibility",
    "MomentumNet",
    "ReversibleSequential",
    "check_invertible",
    "momentum_steps",
]
