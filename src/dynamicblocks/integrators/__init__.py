"""Integrators: one-step maps with a declared order. They know a field and a step, nothing of grids or weights."""

from dynamicblocks.integrators.adams import Adams
from dynamicblocks.integrators.adams_bashforth import AdamsBashforth
from dynamicblocks.integrators.adaptive import Adaptive
from dynamicblocks.integrators.algebraic import ReversiblePair, ReversibleRungeKutta
from dynamicblocks.integrators.coupling import AdditiveStep, AffineStep, Coupling
from dynamicblocks.integrators.embedded import Embedded, Paired, Trial
from dynamicblocks.integrators.esdirk import ESDIRKS, Esdirk
from dynamicblocks.integrators.imex import Imex
from dynamicblocks.integrators.implicit import IMPLICIT, ImplicitRungeKutta
from dynamicblocks.integrators.integrator import (
    FIRST_ORDER,
    Carry,
    FieldStage,
    Integrator,
    Reads,
    Size,
    Stage,
    check_steps,
)
from dynamicblocks.integrators.linear_multistep import LinearMultistep
from dynamicblocks.integrators.methods import (
    ADAPTIVE,
    METHODS,
    REVERSIBLE,
    AdaptiveMethod,
    GridMethod,
    Method,
    as_integrator,
    as_method,
    foreign_options,
    integrators,
    list_integrators,
    other_methods,
    reversible,
)
from dynamicblocks.integrators.momentum import Momentum, momentum_steps
from dynamicblocks.integrators.pairs import PAIRS, Pair
from dynamicblocks.integrators.partitioned import SymplecticEuler, Verlet
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.second_order import Leapfrog
from dynamicblocks.integrators.stability import contractive_step, longest_step
from dynamicblocks.integrators.tableaus import TABLEAUS, Tableau
from dynamicblocks.integrators.tolerance import Norm, Tolerance, rms_norm
from dynamicblocks.integrators.two_step_midpoint import TwoStepMidpoint

__all__ = [
    "ADAPTIVE",
    "ESDIRKS",
    "FIRST_ORDER",
    "IMPLICIT",
    "METHODS",
    "PAIRS",
    "REVERSIBLE",
    "TABLEAUS",
    "Adams",
    "AdamsBashforth",
    "Adaptive",
    "AdaptiveMethod",
    "AdditiveStep",
    "AffineStep",
    "AsynchronousLeapfrog",
    "Carry",
    "Coupling",
    "Embedded",
    "Esdirk",
    "FieldStage",
    "GridMethod",
    "Imex",
    "ImplicitRungeKutta",
    "Integrator",
    "Leapfrog",
    "LinearMultistep",
    "Method",
    "Momentum",
    "Norm",
    "Pair",
    "Paired",
    "Reads",
    "ReversibleHeun",
    "ReversiblePair",
    "ReversibleRungeKutta",
    "RungeKutta",
    "Size",
    "Stage",
    "SymplecticEuler",
    "Tableau",
    "Tolerance",
    "Trial",
    "TwoStepMidpoint",
    "Verlet",
    "as_integrator",
    "as_method",
    "check_steps",
    "contractive_step",
    "foreign_options",
    "integrators",
    "list_integrators",
    "longest_step",
    "momentum_steps",
    "other_methods",
    "reversible",
    "rms_norm",
]
