"""How the equation of a model is solved: plain values, which files and flags hold."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.solve import solve
from dynamicblocks.gradients import as_gradient
from dynamicblocks.integrators import AdaptiveMethod, as_method
from dynamicblocks.solving import Solution
from dynamicblocks.times import check_count


@dataclass(frozen=True)
class Solver:
    """How an equation is solved.

    Args:
        method: of :func:`~dynamicblocks.solve`: an adaptive one by name, or one on a grid.
        rtol, atol: the error of a step of an adaptive method may be ``atol + rtol |y|``.
        step_size: of a method on a grid, in the unit of the times; by default its steps end at the times of output.
        gradient: how the backward pass is made: backprop, checkpoint, adjoint, adjoint(interpolant=True), ...
        max_steps: the budget of a solve: an adaptive one that needs more steps is an error.
        compile: compile the loop of an adaptive method, or the steps of an explicit one on a grid.

    Raises:
        ConfigurationError: there is no such method or gradient, or an option that the method does not take.

    >>> Solver("rk4", step_size=0.1)
    Solver(method='rk4', rtol=0.001, atol=0.0001, step_size=0.1, gradient='backprop', max_steps=1000, compile=False)
    """

    method: str = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-4
    step_size: float | None = None
    gradient: str = "backprop"
    max_steps: int = 1000
    compile: bool = False

    def __post_init__(self) -> None:
        check_count(self.max_steps, "max_steps")
        as_gradient(self.gradient)
        if self.step_size is not None and self.adaptive:
            raise ConfigurationError(
                f"step_size {self.step_size:g} is of methods on a grid, and {self.method!r} chooses its steps: leave "
                "it out, or take another method (rk4, midpoint, euler)"
            )

    @property
    def adaptive(self) -> bool:
        """Whether the method chooses its steps."""
        return isinstance(as_method(self.method), AdaptiveMethod)

    def no_looser(self, than: "Solver") -> "Solver":
        """The same with tolerances that are at most those of another.

        >>> Solver(rtol=1e-3).no_looser(Solver(rtol=1e-5)).rtol
        1e-05
        """
        return replace(self, rtol=min(self.rtol, than.rtol), atol=min(self.atol, than.atol))

    def __call__(self, func: Callable[..., Any], y0: Any, t: Tensor, **more: Any) -> Solution:
        """:func:`~dynamicblocks.solve` with these; ``more`` are its other keywords, as ``args`` or ``batched``."""
        given: dict[str, Any] = {"method": self.method, "gradient": self.gradient, "compile": self.compile}
        if self.adaptive:
            if not as_method(self.method).given:
                given |= {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        elif self.step_size is not None:
            given["options"] = {"step_size": self.step_size}
        return solve(func, y0, t, **given, **more)
