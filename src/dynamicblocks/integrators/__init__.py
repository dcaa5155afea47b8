"""Integrators: one-step maps with a declared order. They know a field and a step, nothing of grids or weights."""

from dynamicblocks.integrators.adams import Adams
from dynamicblocks.integrators.adaptive import Adaptive
from dynamicblocks.integrators.embedded import Embedded, Trial
from dynamicblocks.integrators.esdirk import ESDIRKS, Esdirk
from dynamicblocks.integrators.implicit import IMPLICIT, ImplicitRungeKutta
from dynamicblocks.integrators.integrator import Carry, FieldStage, Integrator, Reads, Size, Stage
from dynamicblocks.integrators.methods import (
    ADAPTIVE,
    METHODS,
    AdaptiveMethod,
    GridMethod,
    Method,
    as_integrator,
    as_method,
    foreign_options,
    integrators,
    list_integrators,
)
from dynamicblocks.integrators.pairs import PAIRS, Pair
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS, Tableau
from dynamicblocks.integrators.tolerance import Norm, Tolerance, rms_norm

__all__ = [
    "ADAPTIVE",
    "ESDIRKS",
    "IMPLICIT",
    "METHODS",
    "PAIRS",
    "TABLEAUS",
    "Adams",
    "Adaptive",
    "AdaptiveMethod",
    "AsynchronousLeapfrog",
    "Carry",
    "Embedded",
    "Esdirk",
    "FieldStage",
    "GridMethod",
    "ImplicitRungeKutta",
    "Integrator",
    "Method",
    "Norm",
    "Pair",
    "Reads",
    "ReversibleHeun",
    "RungeKutta",
    "Size",
    "Stage",
    "Tableau",
    "Tolerance",
    "Trial",
    "as_integrator",
    "as_method",
    "foreign_options",
    "integrators",
    "list_integrators",
    "rms_norm",
]
