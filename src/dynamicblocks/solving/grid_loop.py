"""The loop over a grid: the steps of a block, and those of a caller's problem between given points."""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from dynamicblocks.counting import Tallied
from dynamicblocks.errors import SolverError
from dynamicblocks.integrators import Carry, Integrator, Reads, Size, Stage
from dynamicblocks.integrators.unsolved import StageError, where_not_finite
from dynamicblocks.layers.parts import FIELD, PROJECTION
from dynamicblocks.layers.stand_in import Places
from dynamicblocks.solving.failures import Circumstances, NotFiniteStateError, SolveError, unsolved_step
from dynamicblocks.solving.outputs import Event, Outputs, StepKeeper, collect, wanted_states
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.recording import Action, Between, Recording
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.timed_steps import GridStep, Interpolation, TimedSteps

Advance = Callable[[Carry, int, int], Carry]
"""(carry, first, last) -> the carry after the steps ``first, ..., last - 1``."""


class SteppedField(Protocol):
    """What the loop asks of a right-hand side."""

    @property
    def parts(self) -> Container[str]:
        """Names of its parts."""

    @property
    def tally(self) -> Tallied | None:
        """Of its evaluations, if they are counted."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """What of it gets gradients."""

    @property
    def modules(self) -> Sequence[nn.Module]:
        """Whose buffers it may change."""

    def on_step(self, step: int) -> Stage:
        """The field on one step of the grid."""

    def apart(self, places: Places) -> Self:
        """The same with other buffers, without a change of the modules."""

    def jumps(self, step: int, derivatives: int = 0) -> bool:
        """Whether the field at the begin of a step is another than at the end of the one before.

        Or has another derivative in time, of so many first ones.
        """

    def layers_read(self, steps: Iterable[int], reads: Reads) -> Sequence[nn.Module]:
        """The modules that steps evaluate which read these fractions and parts."""


@dataclass(frozen=True)
class GridCourse:
    """An integrator along the points of a grid: steps that gradient modes run, one by one or many at once.

    A carry is that of the integrator; before the first step it is the state itself.

    Args:
        field: on each step.
        integrator: of the steps.
        points: of the grid.
        all_times: whether the states at all points are wanted, or the last alone.
        between: stands between the integrator and the field, if anybody does.
        before: the state one step before the first, of integrators that take it.
    """

    graph_of_steps: ClassVar[bool] = True
    """Whether its steps are few, so that PyTorch's own tools for graphs serve: tracing, checkpoints."""

    field: SteppedField
    integrator: Integrator
    points: Sequence[float]
    all_times: bool = False
    between: Between | None = None
    before: Tensor | None = None

    @property
    def name(self) -> str:
        """Of the integrator."""
        return self.integrator.name

    @property
    def tally(self) -> Tallied | None:
        """Of the evaluations, if they are counted."""
        return self.field.tally

    @property
    def tensors(self) -> Sequence[Tensor]:
        """What gets gradients, beside the state and the times."""
        own = self.integrator.parameters() if isinstance(self.integrator, nn.Module) else ()
        return [*self.field.tensors, *own, *(() if self.before is None else (self.before,))]

    @property
    def modules(self) -> Sequence[nn.Module]:
        """Whose buffers the field may change."""
        return self.field.modules

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.points) - 1

    def size(self, step: int) -> Size:
        """The size of a step."""
        return self.points[step + 1] - self.points[step]

    def stage(self, step: int) -> Stage:
        """The field on a step, as the integrator sees it."""
        stage = self.field.on_step(step)
        return stage if self.between is None else self.between(step, stage)

    def through(self, between: Between) -> Self:
        """The same with something between the integrator and the field."""
        return replace(self, between=between)

    def meets(self, step: int) -> bool:
        """Whether the field at the begin of a step is that at the end of the one before, seen at the same time."""
        return not self.field.jumps(step)

    def carries(self, carry: Carry, first: int, last: int) -> Iterator[Carry]:
        """The carry after each of the steps ``first, ..., last - 1``."""
        field, integrator = self.field, self.integrator
        projects, restarts, between = self.projects, integrator.restarts, self.between
        derivatives = integrator.restart_derivatives
        for step in range(first, last):
            stage, h = field.on_step(step), self.size(step)
            if between is not None:
                stage = between(step, stage)
            if step == 0:
                carry = self._begun(stage, h, carry)
            elif restarts and field.jumps(step, derivatives):
                carry = integrator.restart(stage, h, carry)
            carry = integrator.advance(stage, h, carry)
            if projects:
                carry = integrator.amend(carry, partial(stage.part, PROJECTION, 1.0))
            yield carry

    def _begun(self, stage: Stage, h: Size, y: Tensor) -> Carry:
        """The carry before the first step."""
        if self.before is None:
            return self.integrator.begin(stage, h, y)
        return self.integrator.begin_after(stage, h, y, self.before)

    def advance(self, carry: Carry, first: int, last: int) -> Carry:
        """The carry after the steps ``first, ..., last - 1``."""
        for after in self.carries(carry, first, last):
            carry = after
        return carry

    @property
    def projects(self) -> bool:
        """Whether the loop ends each step with the layer's projection: not where the integrator reads it itself."""
        return PROJECTION in self.field.parts and all(part != PROJECTION for _, part in self.integrator.reads)

    def state(self, carry: Carry) -> Tensor:
        """The state that a carry holds."""
        return self.integrator.finish(carry)

    def follow(self, y: Tensor, advance: Advance | None = None) -> Outputs:
        """The states that are wanted, from the first one; ``advance`` makes the steps in the place of the course."""
        if not self.all_times:
            make = self.advance if advance is None else advance
            return Outputs([y, self.state(make(y, 0, self.steps))])
        return Outputs([y, *map(self.integrator.finish, self._one_by_one(y, advance))])

    def modules_read(self, first: int, last: int) -> Sequence[nn.Module]:
        """The modules that the steps ``first, ..., last - 1`` evaluate."""
        return self.field.layers_read(range(first, last), self.integrator.reads)

    def probe(self, y: Tensor) -> Tensor:
        """What depends on all that is read at the first time: the field, or a step of other parts."""
        c, part = self.integrator.reads[0]
        return self.field.on_step(0)(c, y) if part == FIELD else self.state(self.advance(y, 0, 1))

    @property
    def inputs(self) -> tuple[Tensor | None, Tensor | None]:
        """Times of output and grid, where they may have gradients."""
        return None, None

    def moving(self, y0: Tensor, t: Tensor | None, grid: Tensor | None) -> "GridCourse":
        """The same from another state, with times and a grid of these values."""
        return self

    def apart(self, places: Places) -> "GridCourse":
        """The same with other buffers, without a change of the modules."""
        return replace(self, field=self.field.apart(places)) if places else self

    def record(self, y: Tensor, recording: Recording) -> Outputs:
        """As :meth:`follow`, and take note of each step and of the carry before it."""
        last: list[Carry] = [y]

        def advance(carry: Carry, first: int, end: int) -> Carry:
            for step in range(first, end):
                recording.add(Action(self.points[step], self.points[step + 1], recording.now()), carry)
                try:
                    carry = last[0] = self.advance(carry, step, step + 1)
                except SolverError:
                    recording.actions.pop()  # it was not taken
                    raise
            return carry

        found = self._recorded(y, advance, recording)
        recording.keep(len(recording.actions), last[0])
        return found

    def _recorded(self, y: Tensor, advance: Advance, recording: Recording) -> Outputs:
        found = self.follow(y, advance)
        for action in recording.actions if self.all_times else recording.actions[-1:]:
            recording.passed(1, action)
        return found

    def run(self, n: int, action: Action, carry: Carry) -> tuple[Carry, list[Tensor]]:
        """The carry after the action ``n``, and the states that are wanted of it."""
        after = self.advance(carry, n, n + 1)
        return after, [self.state(after)[None] for _ in action.places]

    @property
    def reversible(self) -> bool:
        """Whether actions can be taken back."""
        return self.integrator.reversible

    def back(self, n: int, action: Action, carry: Carry) -> Carry:
        """The carry before the action ``n``, from the one after it."""
        previous = self.size(n - 1) if n else None
        return self.integrator.take_back(self.stage(n), self.size(n), carry, previous)

    def _one_by_one(self, carry: Carry, advance: Advance | None) -> Iterator[Carry]:
        """The carry after each step, made by ``advance`` in the place of the course."""
        if advance is None:
            return self.carries(carry, 0, self.steps)

        def made(carry: Carry) -> Iterator[Carry]:
            for step in range(self.steps):
                carry = advance(carry, step, step + 1)
                yield carry

        return made(carry)


@dataclass(frozen=True, kw_only=True)
class ProblemOnGrid(GridCourse):
    """An integrator along a grid that leads from the first time of a caller's problem to its last.

    Args:
        field: of the problem, along the grid.
        problem: what is solved.
        scheme: that made the course.
        interpolation: of states between the points.
        event: ends the solve.
        beyond: whether it is looked for beyond the last time.
        kept: takes the steps.
    """

    graph_of_steps: ClassVar[bool] = False

    field: TimedSteps
    problem: Problem
    scheme: Scheme
    interpolation: Interpolation
    event: Event | None = None
    beyond: bool = False
    kept: StepKeeper | None = None

    def size(self, step: int) -> Size:
        grid = self.field.grid
        return self.points[step + 1] - self.points[step] if grid is None else grid[step + 1] - grid[step]

    def follow(
        self, y: Tensor, advance: Advance | None = None, *, passed: Callable[[int], None] | None = None
    ) -> Outputs:
        plain = self.event is None and self.kept is None and self.problem.hook("callback_step") is None
        if plain and passed is None and self.points is self.problem.times:
            # All states of the grid are outputs.
            states = [y]
            try:
                for carry in self._one_by_one(y, advance):
                    states.append(self.integrator.finish(carry))
            except StageError as error:
                raise self._failure(error, states) from None
            return Outputs(states)
        steps = self._steps(y, advance)
        return collect(self.problem, y, steps, self.event, beyond=self.beyond, passed=passed, kept=self.kept)

    def _steps(self, y: Tensor, advance: Advance | None) -> Iterator[GridStep]:
        hook = self.problem.hook("callback_step")
        carries = self._one_by_one(y, advance)
        for step in range(self.steps):
            if hook is not None:
                hook(self.points[step], y, abs(self.points[step + 1] - self.points[step]))
            try:
                made = self._step(step, y, next(carries))
            except StageError as error:
                raise self._failure(error, []) from None
            yield made
            y = made.y1

    def _failure(self, error: StageError, states: Sequence[Tensor]) -> SolveError:
        """The failure of a solve whose present step cannot be made."""
        t0, t1 = self.points[self.field.step : self.field.step + 2]
        tally = replace(self.problem.field.tally)
        return unsolved_step(error, Circumstances(t0, t1 - t0, tally, self.problem.times[: len(states)], states))

    def _step(self, step: int, y: Tensor, after: Carry) -> GridStep:
        t0, t1 = self.points[step : step + 2]
        begin = t0 if self.field.grid is None else self.field.grid[step]
        stage = self.stage(step)
        return GridStep(t0, t1, begin, self.size(step), y, self.state(after), stage, self.interpolation)

    @property
    def inputs(self) -> tuple[Tensor | None, Tensor | None]:
        return self.problem.t, self.field.grid

    def meets(self, step: int) -> bool:
        return not self.field.perturb

    def moving(self, y0: Tensor, t: Tensor | None, grid: Tensor | None) -> "ProblemOnGrid":
        assert t is not None
        problem = self.problem.moved(y0, t)
        return replace(self, problem=problem, field=self.field.moved(problem, grid))

    def apart(self, places: Places) -> "ProblemOnGrid":
        if not places:
            return self
        problem = self.problem.apart(places)
        return replace(self, problem=problem, field=self.field.moved(problem, self.field.grid))

    def _recorded(self, y: Tensor, advance: Advance, recording: Recording) -> Outputs:
        return self.follow(y, advance, passed=recording.passed)

    def run(self, n: int, action: Action, carry: Carry) -> tuple[Carry, list[Tensor]]:
        before, after = carry if n == 0 else self.state(carry), self.advance(carry, n, n + 1)
        return after, wanted_states(self.problem, action, self._step(n, before, after))


def check_last_slope(course: ProblemOnGrid, states: Sequence[Tensor] | Tensor) -> None:
    """Raise a NotFiniteStateError where the field is not finite at the last time, at which some methods never read it.

    An adaptive method has the slope at the end of its last step; on a grid this is one evaluation. As there the time is
    the one just before, for fields that are not defined at the last. It is no cost of the steps, and not counted.
    """
    integrator, problem = course.integrator, course.problem
    # Explicit Adams methods declare what their first steps read.
    reads_all = integrator.fixed_cost or integrator.solves_equations
    if not integrator.fractions or not course.steps or (reads_all and max(integrator.fractions) >= 1):
        return
    t, clock = course.points[-1], problem.clock
    with torch.no_grad():
        (time,) = clock.tensors([clock.before(t, problem.direction)], shifted=False)
        lost = where_not_finite(problem.field(time, states[-1].detach()))
    problem.field.tally.evaluations -= 1
    if lost:
        raise NotFiniteStateError(
            f"non-finite values in the slope func(t, y) at t = {t:.9g}, the last time, where {course.name} does not "
            f"read it: {lost}",
            Circumstances(t, math.nan, replace(problem.field.tally), problem.times, list(states)),
        )
