"""A caller's field on the steps of a grid, and the states between the ends of such a step."""

import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamicblocks.integrators import Reads, Size, Stage
from dynamicblocks.integrators.interpolant import Row, combine, hermite_weights
from dynamicblocks.integrators.unsolved import StageError, Unsolved
from dynamicblocks.layers.stand_in import Places
from dynamicblocks.solving.field import Tally
from dynamicblocks.solving.problem import Problem

# Times are made for so many steps at once.
CHUNK = 256


class TimedStage:
    """A caller's field on one step; ``times`` are those of its fractions."""

    __slots__ = ("_field", "_number", "_steps", "_times")

    def __init__(self, steps: "TimedSteps", number: int, times: dict[float, Tensor]) -> None:
        self._steps, self._number, self._times, self._field = steps, number, times, steps.problem.field

    @property
    def unsolved(self) -> Callable[[Unsolved], None]:
        """Told of equations of the step that were not solved."""
        return self._steps.unsolved

    def __call__(self, c: float, y: Tensor) -> Tensor:
        times = self._times
        return self._field(times[c] if c in times else self._steps.time(self._number, c), y)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        times = self._times
        return self._field.part(name, times[c] if c in times else self._steps.time(self._number, c), y, *extra)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The times at which the step begins and ends, in the precision of the caller's times."""
        return self._steps.ends(self._number)


class TimedSteps:
    """The field of a problem along the points of a grid.

    Args:
        problem: has the field.
        points: of the grid.
        fractions: of a step at which it is usually read; each counts once.
        grid: the points as a tensor, where they carry gradients.
        perturb: whether stages at the ends of a step see the nearest time inside it, for fields that jump there.
        strict: whether an equation that was not solved ends the solve, and not only where values are not finite.
    """

    parts: Container[str] = ()
    """None that the loop must heed: a caller's function has no projection that follows each step."""

    def __init__(
        self,
        problem: Problem,
        points: Sequence[float],
        fractions: Iterable[float],
        grid: Tensor | None = None,
        *,
        perturb: bool = False,
        strict: bool = False,
    ) -> None:
        self.problem, self.points, self.grid = problem, points, grid
        self.perturb, self.strict = perturb, strict
        self.step = 0  # the last one that was asked for
        self.tensors, self.modules = problem.tensors, problem.modules
        self.fractions = tuple(dict.fromkeys(fractions))
        self._chunk = -1
        self._made: list[dict[float, Tensor]] = []

    @property
    def tally(self) -> Tally:
        """Of the evaluations."""
        return self.problem.field.tally

    def moved(self, problem: Problem, grid: Tensor | None) -> "TimedSteps":
        """The same along a grid of these values."""
        return TimedSteps(problem, self.points, self.fractions, grid, perturb=self.perturb, strict=self.strict)

    def apart(self, places: Places) -> "TimedSteps":
        """The same with other buffers, without a change of the modules."""
        return self.moved(self.problem.apart(places), self.grid)

    def jumps(self, step: int, derivatives: int = 0) -> bool:
        """A caller's field is smooth as far as anybody knows."""
        return False

    def layers_read(self, steps: Iterable[int], reads: Reads) -> Sequence[nn.Module]:
        """Those of the problem, whatever the steps."""
        return self.problem.modules

    def on_step(self, step: int) -> Stage:
        """The field on one step."""
        self.step = step
        if self.grid is not None:
            return TimedStage(self, step, {})
        if step // CHUNK != self._chunk:
            self._chunk = step // CHUNK
            self._made = self._times(self._chunk * CHUNK)
        return TimedStage(self, step, self._made[step % CHUNK])

    def unsolved(self, left: Unsolved) -> None:
        """An equation of the present step was not solved: raise a StageError, or count it and warn of the first."""
        tally = self.problem.field.tally
        tally.not_converged += left.finite
        if self.strict or not left.finite:
            raise StageError(left)
        if tally.not_converged == 1:
            warnings.warn(left.warning, stacklevel=2)

    def ends(self, step: int) -> tuple[Tensor, Tensor]:
        """The times at which a step begins and ends, in the precision of the caller's times."""
        ends = self.problem.t.new_tensor(self.points[step : step + 2]) if self.grid is None else self.grid[step:][:2]
        return ends[0], ends[1]

    def numbers(self, first: int, last: int) -> list[float]:
        """The times of the usual stages of the steps ``first, ..., last - 1``, step by step."""
        ends = pairwise(self.points[first : last + 1])
        if self.perturb:
            return [self._number(t0, t1, c) for t0, t1 in ends for c in self.fractions]
        return [t1 if c == 1 else t0 + c * (t1 - t0) for t0, t1 in ends for c in self.fractions]

    def _times(self, first: int) -> list[dict[float, Tensor]]:
        """The times of the usual stages of a chunk of steps."""
        fractions, count = self.fractions, len(self.fractions)
        tensors = self.problem.clock.tensors(self.numbers(first, first + CHUNK), shifted=False)
        return [
            dict(zip(fractions, tensors[n : n + count], strict=True)) for n in range(0, len(tensors), max(count, 1))
        ]

    def _number(self, t0: float, t1: float, c: float) -> float:
        clock = self.problem.clock
        if c == 0:
            return clock.after(t0, t1 - t0) if self.perturb else t0
        if c == 1:
            return clock.before(t1, t1 - t0) if self.perturb else t1
        return t0 + c * (t1 - t0)

    def time(self, step: int, c: float) -> Tensor:
        """The time of a stage that is not usual: of a method that begins with another, or of an interpolation.

        Where begin and size of the step carry gradients, so does it.
        """
        number = self._number(self.points[step], self.points[step + 1], c)
        if self.grid is None:
            return self.problem.clock.tensors([number], shifted=False)[0]
        time = (self.grid[step] + c * (self.grid[step + 1] - self.grid[step])).to(self.problem.clock.dtype)
        # In the precision of the field, which may be finer than that of the grid.
        return time + (number - float(time.detach()))


@dataclass
class GridStep:
    """A step of a grid, with what is needed to find the states on it."""

    t0: float
    t1: float
    begin: float | Tensor
    h: Size
    y0: Tensor
    y1: Tensor
    stage: Stage
    interpolation: "Interpolation"
    _parts: list[Tensor] | None = field(default=None, repr=False)
    _with_graph: bool = field(default_factory=torch.is_grad_enabled, repr=False)

    def state(self, x: float | Tensor) -> Tensor:
        """The state at the fraction ``x`` of the step."""
        if not isinstance(x, Tensor) and x in (0.0, 1.0):
            return self.y1 if x else self.y0
        return combine(self.weights(x), self.parts())

    def parts(self) -> list[Tensor]:
        """What the interpolation is a weighted sum of."""
        if self._parts is None:
            # They are kept: a first look without gradients must not take them from a second.
            with torch.set_grad_enabled(self._with_graph):
                self._parts = self.interpolation.parts(self)
        return self._parts

    def weights(self, x: float | Tensor) -> Row:
        """The weights of the parts in the state at the fraction ``x``."""
        return self.interpolation.weights(x)


class Interpolation(NamedTuple):
    """States between the points of a grid: the parts of a step, and their weights at a fraction of it."""

    parts: Callable[[GridStep], list[Tensor]]
    weights: Callable[[float | Tensor], Row]


def _linear(step: GridStep) -> list[Tensor]:
    return [step.y0, step.y1 - step.y0]


def _cubic(step: GridStep) -> list[Tensor]:
    slopes = [step.stage(c, y) * step.h for c, y in ((0.0, step.y0), (1.0, step.y1))]
    return [step.y0, step.y1, *slopes]


INTERPOLATIONS: dict[str, Interpolation] = {
    # The straight line between both ends.
    "linear": Interpolation(_linear, lambda x: (1.0, x)),
    # The cubic polynomial with the states and slopes at both ends.
    "cubic": Interpolation(_cubic, partial(hermite_weights, middle=False)),
}
