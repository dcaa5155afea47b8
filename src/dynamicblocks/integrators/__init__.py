"""Integrators: one-step maps with a declared order. They know a field and a step, nothing of grids or weights."""

from dynamicblocks.integrators.adams import Adams
from dynamicblocks.integrators.adaptive import ADAPTIVE, Adaptive
from dynamicblocks.integrators.base import Carry, Integrator, Size, Stage
from dynamicblocks.integrators.embedded import Embedded, Trial
from dynamicblocks.integrators.esdirk import ESDIRKS, Esdirk
from dynamicblocks.integrators.implicit import IMPLICIT, ImplicitRungeKutta
from dynamicblocks.integrators.pairs import PAIRS, Pair
from dynamicblocks.integrators.registry import as_integrator, integrators, list_integrators
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, Reversible, ReversibleHeun
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS, Tableau
from dynamicblocks.integrators.tolerance import Norm, Tolerance, rms_norm

__all__ = [
    "ADAPTIVE",
    "ESDIRKS",
    "IMPLICIT",
    "PAIRS",
    "TABLEAUS",
    "Adams",
    "Adaptive",
    "AsynchronousLeapfrog",
    "Carry",
    "Embedded",
    "Esdirk",
    "ImplicitRungeKutta",
    "Integrator",
    "Norm",
    "Pair",
    "Reversible",
    "ReversibleHeun",
    "RungeKutta",
    "Size",
    "Stage",
    "Tableau",
    "Tolerance",
    "Trial",
    "as_integrator",
    "integrators",
    "list_integrators",
    "rms_norm",
]
