"""Solves whose steps can be taken again: those of a loop that chooses them, and those on a grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import adaptive
from dynamicblocks.functional import grid as on_grid
from dynamicblocks.functional.grid import GridMarch, GridStep
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.replay.actions import Action, Course, Record
from dynamicblocks.functional.walk import Event, StepLike, Walk, walk
from dynamicblocks.integrators import Carry, Integrator, Size, Stage
from dynamicblocks.marching import AdaptiveMarch, Step


def course_of(problem: Problem, march: AdaptiveMarch | GridMarch, grid: Tensor | None = None) -> Course:
    """The course of a loop over a problem."""
    if isinstance(march, AdaptiveMarch):
        return AdaptiveCourse(problem, march)
    if grid is None:
        raise ConfigurationError(f"{march.integrator.name} needs a grid")
    on_grid.steps(problem, march, grid)  # raises if it is none for the problem
    points = problem.times if grid is problem.t else grid.detach().tolist()
    return GridCourse(march, points, grid if grid.requires_grad else None)


@dataclass
class AdaptiveCourse:
    """The steps of a loop that chose them; a carry is the state with its slope, None before that is known."""

    problem: Problem
    march: AdaptiveMarch
    actions: list[Action] = field(default_factory=list)

    @property
    def inputs(self) -> tuple[Tensor, Tensor | None]:
        return self.problem.t, None

    def moving(self, y0: Tensor, t: Tensor, grid: Tensor | None) -> "AdaptiveCourse":
        problem = replace(self.problem, y0=y0, t=t, clock=self.problem.clock.moved(y0, t[0]))
        return AdaptiveCourse(problem, replace(self.march, clock=problem.clock), self.actions)

    def steps(self) -> Iterator[StepLike]:
        return adaptive.steps(self.problem, self.march)

    def first(self, record: Record, event: Event | None) -> Walk:
        self.actions = record.actions
        return walk(self.problem, self._recorded(record), event, passed=record.passed)

    def _recorded(self, record: Record) -> Iterator[Step]:
        problem, tally, hooks, now = self.problem, self.march.field.tally, self.march.hooks, record.surroundings.now
        # The loop evaluates a slope before its first step, and after a jump.
        evaluations, begun, around = tally.evaluations, now(), now()
        fresh, ended = True, None

        def before(t: float, y: Tensor, h: float) -> None:
            nonlocal fresh, around
            if hooks.step is not None:
                hooks.step(t, y, h)
            if fresh and tally.evaluations > evaluations:
                time = problem.clock.after(t, problem.direction) if record.actions else t
                # The slope that is replaced is part of the carry, as it is where the carry is marched to again.
                record.add(Action(time, None, begun), (y, ended))
            fresh, around = False, now()

        march = replace(self.march, hooks=replace(hooks, step=before))
        for step in march.steps(problem.times[0], problem.y0, problem.direction):
            record.add(Action(step.t0, step.t1, around), (step.y0, step.trial.start))
            yield step
            evaluations, begun, fresh, ended = tally.evaluations, now(), True, step.trial.end

    def start(self, y: Tensor) -> Carry:
        return y, None

    def run(self, n: int, carry: Carry) -> tuple[Carry, list[Tensor]]:
        action, march, (y, slope) = self.actions[n], self.march, carry
        if action.t1 is None:
            return (y, march.field(march.clock.tensors([action.t0])[0], y)), []
        stage = march.stage(action.t0, action.t1)
        trial = march.method.attempt(stage, action.t1 - action.t0, y, slope, march.tolerance)
        step = Step(action.t0, action.t1, y, trial, march.method, march.clock.shift)
        return (trial.y1, trial.end), action.outputs(self.problem, step)


@dataclass
class GridCourse:
    """The steps of an integrator on a grid, whose carry is that of the integrator."""

    march: GridMarch
    points: list[float]
    grid: Tensor | None
    actions: list[Action] = field(default_factory=list)

    @property
    def inputs(self) -> tuple[Tensor, Tensor | None]:
        return self.march.problem.t, self.grid

    def moving(self, y0: Tensor, t: Tensor, grid: Tensor | None) -> "GridCourse":
        problem = replace(self.march.problem, y0=y0, t=t, clock=self.march.problem.clock.moved(y0, t[0]))
        return GridCourse(replace(self.march, problem=problem), self.points, grid, self.actions)

    def steps(self) -> Iterator[StepLike]:
        return self.march.steps(self.points, self.grid)

    def first(self, record: Record, event: Event | None) -> Walk:
        self.actions = record.actions
        watched = _Watched(self.march.integrator, record, self.points)
        march = replace(self.march, integrator=watched)
        found = walk(march.problem, march.steps(self.points, self.grid), event, passed=record.passed)
        record.keeper.offer(len(record.actions), watched.last)
        return found

    def start(self, y: Tensor) -> Carry:
        return self.march.integrator.init(y)

    def step(self, n: int) -> tuple[float | Tensor, Size, Stage]:
        """The begin, the size and the stages of a step."""
        t0, t1 = self.points[n], self.points[n + 1]
        if self.grid is None:
            return t0, t1 - t0, self.march.stage(t0, t1, self.march.stage_times([t0, t1])[0])
        begin, h = self.grid[n], self.grid[n + 1] - self.grid[n]
        return begin, h, self.march.moving_stage(begin, h, t0, t1)

    def run(self, n: int, carry: Carry) -> tuple[Carry, list[Tensor]]:
        integrator = self.march.integrator
        begin, h, stage = self.step(n)
        after = integrator.advance(stage, h, carry)
        ends = integrator.finish(carry), integrator.finish(after)
        step = GridStep(self.points[n], self.points[n + 1], begin, h, *ends, stage, self.march.interpolation)
        return after, self.actions[n].outputs(self.march.problem, step)


class _Watched(Integrator):
    """An integrator whose carries are recorded."""

    def __init__(self, inner: Integrator, record: Record, points: Sequence[float]) -> None:
        self._inner, self._record, self._points = inner, record, points
        self.last: Carry = None

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def order(self) -> int:
        return self._inner.order

    @property
    def fractions(self) -> tuple[float, ...]:
        return self._inner.fractions

    def init(self, y: Tensor) -> Carry:
        return self._inner.init(y)

    def finish(self, carry: Carry) -> Tensor:
        return self._inner.finish(carry)

    def advance(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        n, record = len(self._record.actions), self._record
        record.add(Action(self._points[n], self._points[n + 1], record.surroundings.now()), carry)
        self.last = self._inner.advance(stage, h, carry)
        return self.last
