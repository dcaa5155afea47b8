"""The functions, and the methods by name."""

from dynamicblocks.functional import odeint, odeint_dense, odeint_event
from dynamicblocks.torchdiffeq.solver_table import SolverTable

__all__ = ["SOLVERS", "odeint", "odeint_dense", "odeint_event"]

SOLVERS = SolverTable()
