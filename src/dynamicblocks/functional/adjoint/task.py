"""What both passes of the adjoint method need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.methods import AdaptiveMethod, Method
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.state import State


@dataclass(frozen=True)
class AdjointTask:
    """What both passes need and no gradient flows to.

    Args:
        problem: what is solved; its initial state and times get gradients.
        y0: the initial state as the caller gave it.
        method, tolerances, options: of the forward pass.
        backward_method, backward_tolerances, backward_options: of the backward pass; its norm is that of the tuple
            (dL/dt, y, a, *dL/dtheta), or of (dL/dt, a, *dL/dtheta) with ``interpolant``.
        happening: the function of an event that ends the solve.
        lost: called with tensors that would lose their gradients; None not to look for them.
        interpolant: whether the backward pass reads y from the steps of the forward pass, rather than solve for it.
    """

    problem: Problem
    y0: State
    method: Method
    tolerances: tuple[Any, Any]
    options: Mapping[str, Any]
    backward_method: Method
    backward_tolerances: tuple[Any, Any]
    backward_options: Mapping[str, Any]
    happening: Callable[[Tensor, Tensor], Tensor] | None
    lost: Callable[[list[Tensor]], None] | None
    interpolant: bool = False

    def __post_init__(self) -> None:
        if self.interpolant and not isinstance(self.method, AdaptiveMethod):
            raise ConfigurationError(
                f"the adjoint with a stored interpolant needs an adaptive method such as dopri5, got {self.method.name}"
            )


def parameters_of(module: nn.Module) -> list[Tensor]:
    """The parameters of a module; in a replica of DataParallel they are plain attributes."""
    if not getattr(module, "_is_replica", False):
        return list(module.parameters())
    return [
        value
        for each in module.modules()
        for value in vars(each).values()
        if isinstance(value, Tensor) and value.requires_grad
    ]
