"""torchdiffeq's names on the methods of this package, to be imported in its place.

    import dynamicblocks.torchdiffeq as torchdiffeq

``python -m dynamicblocks.torchdiffeq PROGRAM`` runs a program that imports torchdiffeq unchanged; :func:`stand_in` does
the same from inside a process. Names below ``_impl`` that programs import are there, too, with the meaning that they
have in torchdiffeq; the classes of its tableaus are not.

>>> from dynamicblocks.torchdiffeq._impl.odeint import SOLVERS
>>> "dopri5" in SOLVERS
True
"""

from dynamicblocks.torchdiffeq._impl import odeint, odeint_adjoint, odeint_dense, odeint_event
from dynamicblocks.torchdiffeq.standing_in import stand_in

__version__ = "0.2.5"
"""The version of torchdiffeq whose names these are."""

__all__ = ["odeint", "odeint_adjoint", "odeint_dense", "odeint_event", "stand_in"]
