"""Solutions on a grid that is chosen beforehand."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.functional.errors import ArgumentError, ArgumentTypeError
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.walk import walk
from dynamicblocks.integrators import Integrator, Size
from dynamicblocks.integrators.interpolant import combine, hermite_weights

# Times are made for so many steps at once.
CHUNK = 256

Interpolation = Callable[["GridStep", float | Tensor], Tensor]


@dataclass
class GridStep:
    """A step of a grid, with what is needed to find the states on it."""

    t0: float
    t1: float
    begin: float | Tensor
    h: Size
    y0: Tensor
    y1: Tensor
    stage: Callable[[float, Tensor], Tensor]
    interpolation: Interpolation

    def state(self, x: float | Tensor) -> Tensor:
        """The state at the fraction ``x`` of the step."""
        if not isinstance(x, Tensor) and x in (0.0, 1.0):
            return self.y1 if x else self.y0
        return self.interpolation(self, x)


def linear(step: GridStep, x: float | Tensor) -> Tensor:
    """The straight line between both ends."""
    return step.y0 + x * (step.y1 - step.y0)


def cubic(step: GridStep, x: float | Tensor) -> Tensor:
    """The cubic polynomial with the states and slopes at both ends."""
    slopes = [step.stage(fraction, y) * step.h for fraction, y in ((0.0, step.y0), (1.0, step.y1))]
    return combine(hermite_weights(x, middle=False), [step.y0, step.y1, *slopes])


INTERPOLATIONS: dict[str, Interpolation] = {"linear": linear, "cubic": cubic}


@dataclass(frozen=True)
class GridMarch:
    """An integrator marched over the points of a grid.

    Args:
        problem: what is solved.
        integrator: the method.
        interpolation: of states between the points.
        perturb: whether stages at the ends of a step see the nearest time inside it, for fields that jump there.
    """

    problem: Problem
    integrator: Integrator
    interpolation: Interpolation = linear
    perturb: bool = False

    def steps(self, points: Sequence[float], grid: Tensor | None = None) -> Iterator[GridStep]:
        """The steps between the points; ``grid`` are the points as a tensor, if they carry a gradient."""
        carry = self.integrator.init(self.problem.y0)
        y = self.problem.y0
        hook = self.problem.hook("callback_step")
        for first in range(0, len(points) - 1, CHUNK):
            part = points[first : first + CHUNK + 1]
            made = self.stage_times(part)
            for n, (t0, t1) in enumerate(pairwise(part)):
                begin: float | Tensor = t0
                h: Size = t1 - t0
                if grid is None:
                    stage = self.stage(t0, t1, made[n])
                else:
                    begin, h = grid[first + n], grid[first + n + 1] - grid[first + n]
                    stage = self.moving_stage(begin, h, t0, t1)
                if hook is not None:
                    hook(t0, y, abs(t1 - t0))
                carry = self.integrator.advance(stage, h, carry)
                y1 = self.integrator.finish(carry)
                yield GridStep(t0, t1, begin, h, y, y1, stage, self.interpolation)
                y = y1

    def stage_times(self, points: Sequence[float]) -> list[dict[float, Tensor]]:
        """The times of all stages between the points, by their fraction."""
        fractions = self.integrator.fractions
        numbers = [self._time(t0, t1, c) for t0, t1 in pairwise(points) for c in fractions]
        tensors = self.problem.clock.tensors(numbers, shifted=False)
        count = len(fractions)
        return [dict(zip(fractions, tensors[n * count : (n + 1) * count], strict=True)) for n in range(len(points) - 1)]

    def _time(self, t0: float, t1: float, fraction: float) -> float:
        clock = self.problem.clock
        if fraction == 0:
            return clock.after(t0, t1 - t0) if self.perturb else t0
        if fraction == 1:
            return clock.before(t1, t1 - t0) if self.perturb else t1
        return t0 + fraction * (t1 - t0)

    def stage(self, t0: float, t1: float, made: dict[float, Tensor]) -> Callable[[float, Tensor], Tensor]:
        """The field on one step, at times that :meth:`stage_times` made."""

        def stage(fraction: float, y: Tensor) -> Tensor:
            if fraction not in made:  # a method that begins with another
                (made[fraction],) = self.problem.clock.tensors([self._time(t0, t1, fraction)], shifted=False)
            return self.problem.field(made[fraction], y)

        return stage

    def moving_stage(self, start: Tensor, h: Tensor, t0: float, t1: float) -> Callable[[float, Tensor], Tensor]:
        """The field on one step whose begin and size carry gradients."""

        def stage(fraction: float, y: Tensor) -> Tensor:
            time = start + fraction * h
            offset = self._time(t0, t1, fraction) - float(time.detach())
            return self.problem.field((time + offset).to(self.problem.clock.dtype), y)

        return stage


def make_march(problem: Problem, integrator: Integrator, options: Mapping[str, Any]) -> GridMarch:
    """The loop for a problem."""
    name = options.get("interp", "linear")
    if name not in INTERPOLATIONS:
        raise unknown_name("interpolation method (option interp)", str(name), INTERPOLATIONS)
    return GridMarch(problem, integrator, INTERPOLATIONS[name], bool(options.get("perturb", False)))


def make_grid(problem: Problem, y0: Any, options: Mapping[str, Any]) -> Tensor:
    """The grid that the options ask for: the times themselves, steps of one size, or what a function makes of them."""
    size, constructor = options.get("step_size"), options.get("grid_constructor")
    t = problem.t
    if size is not None and constructor is not None:
        raise ConfigurationError("step_size and grid_constructor are mutually exclusive arguments.")
    if size is not None:
        length = abs(problem.times[-1] - problem.times[0])
        # A remainder that only rounding made is no step of its own.
        steps = max(1, math.ceil(length / step_size(options) - 1e-6))
        inner = torch.arange(steps, dtype=t.dtype, device=t.device) * (size * problem.direction) + t[0]
        return torch.cat([inner, t[-1:]]) if len(t) > 1 else t
    if constructor is None:
        return t
    grid = constructor(problem.func, y0, t)
    if not isinstance(grid, Tensor) or grid.ndim != 1:
        raise ArgumentTypeError(f"grid_constructor must return a one-dimensional tensor of times, got {grid!r:.80}")
    return grid.to(t.device)


def step_size(options: Mapping[str, Any]) -> float:
    """The option of that name, positive."""
    size = float(options["step_size"])
    if not 0 < size < float("inf"):
        raise ConfigurationError(f"step_size must be positive and finite, got {size}; time may run back all the same")
    return size


def steps(problem: Problem, march: GridMarch, grid: Tensor) -> Iterator[GridStep]:
    """The steps of a problem on a grid, which must lead from its first time to its last."""
    points = problem.times if grid is problem.t else grid.detach().tolist()
    _check_grid(points, problem.times, problem.direction)
    return march.steps(points, grid if grid.requires_grad else None)


def at_times(problem: Problem, march: GridMarch, grid: Tensor) -> Tensor:
    """The states at all times of the problem, time first."""
    if grid is problem.t:
        return torch.stack([problem.y0, *(step.y1 for step in steps(problem, march, grid))])
    return torch.stack(walk(problem, steps(problem, march, grid)).states)


def _check_grid(points: Sequence[float], times: Sequence[float], direction: float) -> None:
    if points[0] != times[0] or points[-1] != times[-1]:
        raise ArgumentError(
            f"the grid must begin at the first time {times[0]:.9g} and end at the last {times[-1]:.9g}, got "
            f"{points[0]:.9g} and {points[-1]:.9g}"
        )
    for before, after in pairwise(points):
        if not (after - before) * direction > 0:
            raise ArgumentError(
                f"the points of the grid must go from the first time to the last, but {before:.9g} is followed by "
                f"{after:.9g}"
            )
