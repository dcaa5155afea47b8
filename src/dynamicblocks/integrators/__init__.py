"""Integrators: one-step maps with a declared order. They know a field and a step, nothing of grids or weights."""

from dynamicblocks.integrators.base import Carry, Integrator, Stage
from dynamicblocks.integrators.registry import as_integrator, integrators, list_integrators
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS, Tableau

__all__ = [
    "TABLEAUS",
    "Carry",
    "Integrator",
    "RungeKutta",
    "Stage",
    "Tableau",
    "as_integrator",
    "integrators",
    "list_integrators",
]
