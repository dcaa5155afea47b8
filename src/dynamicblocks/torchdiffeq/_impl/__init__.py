"""Names below torchdiffeq's ``_impl`` that programs import."""

from dynamicblocks.torchdiffeq._impl.adjoint import odeint_adjoint
from dynamicblocks.torchdiffeq._impl.odeint import odeint, odeint_dense, odeint_event

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
