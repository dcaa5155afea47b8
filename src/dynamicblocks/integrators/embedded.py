"""What a method with an estimate of its own error is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dynamicblocks.integrators.integrator import Size, Slope
from dynamicblocks.integrators.interpolant import Row, hermite_weights
from dynamicblocks.integrators.tolerance import Tolerance
from dynamicblocks.integrators.unsolved import Unsolved


@dataclass
class Trial:
    """A step that was tried; its error decides whether it is taken.

    Args:
        y1: the state at its end.
        error: an estimate of the local error of ``y1``, entry by entry; infinite where no ``y1`` was found.
        start, end: the slopes f(t0, y0) and f(t1, y1), or approximations as good as the method.
        extra: makes what the method's interpolant needs beside both states and slopes, where it is asked for.
        unsolved: why no ``y1`` was found.
        companion: the second state at its end, of methods that lead two.
    """

    y1: Tensor
    error: Tensor
    start: Tensor
    end: Tensor
    extra: Callable[[], list[Tensor]] | None = None
    unsolved: Unsolved | None = None
    companion: Tensor | None = None

    def parts(self, y0: Tensor, h: Size) -> list[Tensor]:
        """What the method's interpolant is a weighted sum of: y0, y1, h f0, h f1, and the extra ones."""
        extra = [] if self.extra is None else self.extra()
        return [y0, self.y1, self.start * h, self.end * h, *extra]


class Embedded(ABC):
    """A one-step method y(t) -> y(t + h) with an estimate of its own local error."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name under which it is known."""

    def shorthand(self, settings: str) -> str:
        """The string that makes it as an integrator with these settings, such as ``"rtol=0.001"``."""
        return f"{self.name}({settings})"

    @property
    @abstractmethod
    def order(self) -> int:
        """Order of convergence of the state that is kept."""

    @property
    @abstractmethod
    def error_order(self) -> int:
        """The power of h with which the estimate falls; it sets how much a step is changed."""

    @property
    def interpolation_order(self) -> int:
        """The order of the states between the ends of a step."""
        return 3

    @property
    def meets_outputs(self) -> bool:
        """Whether steps should end at times of output, for states between the ends of a step are much less exact."""
        return False

    def weights(self, x: float | Tensor) -> Row:
        """The weights of the parts of a step in the state at the fraction ``x`` of it."""
        return hermite_weights(x, middle=False)

    @property
    @abstractmethod
    def fractions(self) -> tuple[float, ...]:
        """The fractions c of a step at which it may read the field."""

    @abstractmethod
    def attempt(self, stage: Slope, h: Size, y: Tensor, slope: Tensor, tolerance: Tolerance) -> Trial:
        """Try a step of size ``h`` from ``y``, where the field is ``slope``; ``h`` may be a tensor of sizes.

        A field that jumps at the end of the step is seen from inside it: ``stage(1.0, y)`` is the limit from there.
        """


class Paired(Embedded):
    """A method that leads two states, of which the second begins as the first, by steps that can be taken back."""

    def attempt(self, stage: Slope, h: Size, y: Tensor, slope: Tensor, tolerance: Tolerance) -> Trial:
        return self.attempt_both(stage, h, y, y, tolerance)

    @abstractmethod
    def attempt_both(self, stage: Slope, h: Size, y: Tensor, z: Tensor, tolerance: Tolerance) -> Trial:
        """Try a step of size ``h`` from both states; it reads the field at its begin itself."""

    @abstractmethod
    def unstep(self, stage: Slope, h: Size, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both states at the begin of a step, from those at its end."""
