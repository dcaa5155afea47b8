"""The continuous adjoint method: gradients by solving a second differential equation back in time."""

from dynamicblocks.functional.adjoint.compiled import CompiledTask, compiled_adjoint, with_norm
from dynamicblocks.functional.adjoint.node import adjoint_states
from dynamicblocks.functional.adjoint.norm import adjoint_norm
from dynamicblocks.functional.adjoint.odeint_adjoint import odeint_adjoint
from dynamicblocks.functional.adjoint.task import AdjointTask, parameters_of

__all__ = [
    "AdjointTask",
    "CompiledTask",
    "adjoint_norm",
    "adjoint_states",
    "compiled_adjoint",
    "odeint_adjoint",
    "parameters_of",
    "with_norm",
]
