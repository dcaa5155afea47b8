"""Adaptive methods as integrators of a block: which pair, how exact, how the steps are controlled."""

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.integrators.embedded import Embedded
from dynamicblocks.integrators.esdirk import ESDIRKS, Esdirk
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.pairs import PAIRS
from dynamicblocks.integrators.tolerance import Tolerance
from dynamicblocks.integrators.unsolved import StageError
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.times import check_count, check_positive

BEYOND = (
    "reads the field beyond the end of its steps, where theta(t) may be another piece; blocks have kencarp4, kvaerno3"
)
_EMBEDDED: dict[str, Embedded] = {
    **{pair.name: pair for pair in PAIRS},
    **{tableau.name: Esdirk(tableau) for tableau in ESDIRKS},
}


@dataclass(frozen=True)
class Adaptive(Integrator):
    """Steps as long as a tolerance allows, in a block: its time grid then says where states are wanted, no more.

    A step is taken if the root mean square, over all entries of the state, of its error in units of
    ``atol + rtol max(|y0|, |y1|)`` is at most 1. Samples of a batch share their steps. Steps end at the knots of
    theta(t), and after each point of the grid where the layer has a projection.

    Args:
        method: ``dopri5``, ``tsit5``, ``bosh3``, ``fehlberg2``, ``adaptive_heun``, ``dopri8``, or, for stiff blocks,
            ``kvaerno3``, ``kencarp4``; or an embedded method of one's own.
        rtol, atol: relative and absolute tolerance of a step.
        max_steps: most steps in one forward pass, accepted or not.
        first_step: length of the first step that is tried; None for that of the first step of the grid.
        min_step, max_step: bounds of the length; a step of the least length is accepted whatever its error.
        safety, grow, shrink, proportional, integral, derivative: of the controller of the lengths, see
            :class:`~dynamicblocks.solving.control.StepControl`.

    Raises:
        ConfigurationError: an unknown method, tolerances that no step can meet, an impossible bound.

    >>> Adaptive("bosh3", rtol=1e-2).shorthand
    'bosh3(rtol=0.01, atol=0.0001)'
    """

    method: str | Embedded = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-4
    max_steps: int = 1000
    first_step: float | None = None
    min_step: float = 0.0
    max_step: float = math.inf
    safety: float = 0.9
    grow: float = 10.0
    shrink: float = 0.2
    proportional: float = 0.0
    integral: float = 1.0
    derivative: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.method, Embedded) and self.method not in _EMBEDDED:
            raise unknown_name("adaptive method", str(self.method), _EMBEDDED)
        if max(self.embedded.fractions) > 1:
            raise ConfigurationError(f"{self.name} {BEYOND}")
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigurationError(f"{name} must be a number of at least 0, got {value!r}")
        if self.rtol == self.atol == 0:
            raise ConfigurationError("rtol and atol cannot both be 0: no step would be good enough")
        check_count(self.max_steps, "max_steps")
        if self.first_step is not None:
            check_positive(self.first_step, "first_step")

    @property
    def embedded(self) -> Embedded:
        """The method itself."""
        return self.method if isinstance(self.method, Embedded) else _EMBEDDED[self.method]

    @property
    def name(self) -> str:
        return self.embedded.name

    @property
    def shorthand(self) -> str:
        """The string that makes it: tolerances always, the rest where it is not as usual."""
        shown = [f"rtol={self.rtol!r}", f"atol={self.atol!r}"]
        for each in dataclasses.fields(self)[3:]:
            value = getattr(self, each.name)
            if value != each.default:
                shown.append(f"{each.name}={value!r}")
        return self.embedded.shorthand(", ".join(shown))

    @property
    def order(self) -> int:
        return self.embedded.order

    @property
    def reads(self) -> Reads:
        return tuple((c, FIELD) for c in self.embedded.fractions)

    @property
    def fixed_cost(self) -> bool:
        return False

    @property
    def solves_equations(self) -> bool:
        return isinstance(self.embedded, Esdirk)

    @property
    def tolerance(self) -> Tolerance:
        """Of the error of a step."""
        return Tolerance(self.rtol, self.atol)

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        """One step of the method of this size, whatever its error."""
        trial = self.embedded.attempt(stage, h, carry, stage(0.0, carry), self.tolerance)
        if trial.unsolved is not None:
            raise StageError(trial.unsolved)
        return trial.y1
