"""Functions that solve an initial value problem: odeint and its relatives."""

from dynamicblocks.functional.odeint import odeint, odeint_dense, odeint_event
from dynamicblocks.functional.odeint_adjoint import odeint_adjoint
from dynamicblocks.functional.solve import solve

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event", "solve"]
