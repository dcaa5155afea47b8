"""Functions that solve an initial value problem: odeint and its relatives; Solver, a way to solve as plain values."""

from dynamicblocks.functional.odeint import odeint, odeint_dense, odeint_event
from dynamicblocks.functional.odeint_adjoint import odeint_adjoint
from dynamicblocks.functional.solve import solve
from dynamicblocks.functional.solver import Solver

__all__ = ["Solver", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event", "solve"]
