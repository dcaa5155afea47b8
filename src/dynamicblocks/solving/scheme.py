"""By what a problem is solved: a method with its tolerances and options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamicblocks.integrators import Adaptive, AdaptiveMethod, Method


@dataclass(frozen=True)
class Scheme:
    """A method, tolerances, and options.

    Args:
        method: by what is solved.
        rtol, atol, options: of the call; a method that is an object brings its own.
        limit_each: whether the limit of steps is one between two times of output.
        strict: whether an equation that an implicit method could not solve ends the solve, rather than a warning.
    """

    method: Method
    rtol: Any
    atol: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    limit_each: bool = False
    strict: bool = False

    @property
    def settings(self) -> Adaptive | None:
        """Those of an adaptive integrator that is the method."""
        return self.method.settings if isinstance(self.method, AdaptiveMethod) else None

    @property
    def tolerances(self) -> tuple[Any, Any]:
        """Rtol and atol."""
        return (self.rtol, self.atol) if self.settings is None else (self.settings.rtol, self.settings.atol)
