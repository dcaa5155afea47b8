"""The adjoint method."""

from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError
from dynamicblocks.functional import odeint, odeint_adjoint
from dynamicblocks.functional.arguments import parameters_of
from dynamicblocks.torchdiffeq._impl.odeint import SOLVERS

__all__ = ["SOLVERS", "find_parameters", "odeint", "odeint_adjoint"]


def find_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters of a module, also in a replica of DataParallel."""
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"find_parameters takes an nn.Module, got {type(module).__name__}")
    return parameters_of(module)
