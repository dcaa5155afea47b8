"""A caller's field on the steps of a grid, and the states between the ends of such a step."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from dynamicblocks.integrators import Reads, Size, Stage
from dynamicblocks.integrators.interpolant import combine, hermite_weights
from dynamicblocks.solving.problem import Problem

# Times are made for so many steps at once.
CHUNK = 256


class TimedStage:
    """A caller's field on one step; ``times`` are those of its fractions."""

    __slots__ = ("_field", "_number", "_steps", "_times")

    def __init__(self, steps: "TimedSteps", number: int, times: dict[float, Tensor]) -> None:
        self._steps, self._number, self._times, self._field = steps, number, times, steps.problem.field

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
        fractions: of a step at which it is usually read.
        grid: the points as a tensor, where they carry gradients.
        perturb: whether stages at the ends of a step see the nearest time inside it, for fields that jump there.
    """

    parts: Container[str] = ()
    """None that the loop must heed: a caller's function has no projection that follows each step."""

    def __init__(
        self,
        problem: Problem,
        points: Sequence[float],
        fractions: Sequence[float],
        grid: Tensor | None = None,
        *,
        perturb: bool = False,
    ) -> None:
        self.problem, self.points, self.grid, self.perturb = problem, points, grid, perturb
        self.tensors, self.modules = problem.tensors, problem.modules
        self._fractions = tuple(dict.fromkeys(fractions))
        self._chunk = -1
        self._made: list[dict[float, Tensor]] = []

    def moved(self, problem: Problem, grid: Tensor | None) -> "TimedSteps":
        """The same along a grid of these values."""
        return TimedSteps(problem, self.points, self._fractions, grid, perturb=self.perturb)

    def jumps(self, step: int) -> bool:
        """A caller's field is smooth as far as anybody knows."""
        return False

    def layers_read(self, steps: Iterable[int], reads: Reads) -> Sequence[nn.Module]:
        """Those of the problem, whatever the steps."""
        return self.problem.modules

    def on_step(self, step: int) -> Stage:
        """The field on one step."""
        if self.grid is not None:
            return TimedStage(self, step, {})
        if step // CHUNK != self._chunk:
            self._chunk = step // CHUNK
            self._made = self._times(self._chunk * CHUNK)
        return TimedStage(self, step, self._made[step % CHUNK])

    def ends(self, step: int) -> tuple[Tensor, Tensor]:
        """The times at which a step begins and ends, in the precision of the caller's times."""
        ends = self.problem.t.new_tensor(self.points[step : step + 2]) if self.grid is None else self.grid[step:][:2]
        return ends[0], ends[1]

    def _times(self, first: int) -> list[dict[float, Tensor]]:
        """The times of the usual stages of a chunk of steps."""
        fractions, count = self._fractions, len(self._fractions)
        ends = pairwise(self.points[first : first + CHUNK + 1])
        if self.perturb:
            numbers = [self._number(t0, t1, c) for t0, t1 in ends for c in fractions]
        else:
            numbers = [t1 if c == 1 else t0 + c * (t1 - t0) for t0, t1 in ends for c in fractions]
        tensors = self.problem.clock.tensors(numbers, shifted=False)
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
        time = self.grid[step] + c * (self.grid[step + 1] - self.grid[step])
        offset = number - float(time.detach())
        return (time + offset).to(self.problem.clock.dtype)


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

    def state(self, x: float | Tensor) -> Tensor:
        """The state at the fraction ``x`` of the step."""
        if not isinstance(x, Tensor) and x in (0.0, 1.0):
            return self.y1 if x else self.y0
        return self.interpolation(self, x)


Interpolation = Callable[[GridStep, float | Tensor], Tensor]


def linear(step: GridStep, x: float | Tensor) -> Tensor:
    """The straight line between both ends."""
    return step.y0 + x * (step.y1 - step.y0)


def cubic(step: GridStep, x: float | Tensor) -> Tensor:
    """The cubic polynomial with the states and slopes at both ends."""
    slopes = [step.stage(c, y) * step.h for c, y in ((0.0, step.y0), (1.0, step.y1))]
    return combine(hermite_weights(x, middle=False), [step.y0, step.y1, *slopes])


INTERPOLATIONS: dict[str, Interpolation] = {"linear": linear, "cubic": cubic}
