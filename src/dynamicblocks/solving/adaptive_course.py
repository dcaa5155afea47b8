"""A solve whose steps are as long as the error allows, as a course that gradient modes run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Carry, Paired
from dynamicblocks.layers.stand_in import Places
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Step
from dynamicblocks.solving.field import Tally
from dynamicblocks.solving.outputs import Event, Outputs, StepKeeper, collect, wanted_states
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.recording import Action, Between, Recording
from dynamicblocks.solving.scheme import Scheme


@dataclass(frozen=True)
class AdaptiveCourse:
    """The steps of a loop that chooses them.

    A carry is the state with its slope, and the second state of methods that lead two; before the first action, which
    finds the slope, it is the state itself.

    Args:
        problem: what is solved.
        loop: makes the steps.
        event: ends the solve.
        beyond: whether it is looked for beyond the last time.
        kept: takes the steps.
        limit_each: whether the limit of steps is one between two times of output.
        scheme: that made it; a block's solve has none.
        between: stands between the method and the field on the steps of actions that are taken again or back.
    """

    problem: Problem
    loop: AdaptiveLoop
    event: Event | None = None
    beyond: bool = False
    kept: StepKeeper | None = None
    limit_each: bool = False
    scheme: Scheme | None = None
    between: Between | None = None

    @property
    def in_block(self) -> bool:
        """Whether it is the solve of a block."""
        return self.scheme is None

    @property
    def tensors(self) -> Sequence[Tensor]:
        """What gets gradients, beside the state and the times."""
        return self.problem.tensors

    @property
    def modules(self) -> Sequence[nn.Module]:
        """Whose buffers the field may change."""
        return self.problem.modules

    @property
    def name(self) -> str:
        """Of the method."""
        return self.loop.method.name

    @property
    def tally(self) -> Tally:
        """Of the evaluations."""
        return self.problem.field.tally

    def follow(self, y: Tensor) -> Outputs:
        """The states that are wanted, from the first one."""
        problem = self.problem
        steps = self.loop.steps(problem.times[0], y, problem.direction)
        passed = self._begin_count if self.limit_each and not self.beyond else None
        return collect(problem, y, steps, self.event, beyond=self.beyond, passed=passed, kept=self.kept)

    def _begin_count(self, _passed: int) -> None:
        self.loop.taken = 0

    def probe(self, y: Tensor) -> Tensor:
        """The field at the first time."""
        (time,) = self.problem.clock.tensors(self.problem.times[:1], shifted=False)
        return self.problem.field(time, y)

    @property
    def inputs(self) -> tuple[Tensor | None, Tensor | None]:
        """The times of output, and no grid."""
        return self.problem.t, None

    def moving(self, y0: Tensor, t: Tensor | None, grid: Tensor | None) -> "AdaptiveCourse":
        """The same from another state, with times of these values."""
        assert t is not None
        problem = self.problem.moved(y0, t)
        return replace(self, problem=problem, loop=replace(self.loop, clock=problem.clock))

    def apart(self, places: Places) -> "AdaptiveCourse":
        """The same with other buffers, without a change of the modules."""
        if not places:
            return self
        problem = self.problem.apart(places)
        return replace(self, problem=problem, loop=replace(self.loop, field=problem.field))

    def through(self, between: Between) -> "AdaptiveCourse":
        """The same with something between the method and the field."""
        return replace(self, between=between)

    def meets(self, n: int) -> bool:
        """Whether an action begins where the field is that at the end of the one before: its end is seen earlier."""
        return False

    def stage(self, n: int, action: Action) -> Any:
        """The field on the step of an action, as the method sees it."""
        assert action.t1 is not None
        # Times may have gradients, which the evaluations of a way back need as well.
        with torch.enable_grad():
            stage: Any = self.loop.stage(action.t0, action.t1)
        return stage if self.between is None else self.between(n, stage)

    def record(self, y: Tensor, recording: Recording) -> Outputs:
        """As :meth:`follow`, and take note of each action and of the carry before it."""
        loop = replace(self.loop)

        def passed(count: int) -> None:
            recording.passed(count)
            if self.limit_each:
                loop.taken = 0

        ended: list[Carry] = []
        steps = self._recorded(loop, y, recording, ended)
        try:
            return collect(self.problem, y, steps, self.event, beyond=self.beyond, passed=passed, kept=self.kept)
        finally:
            # From which all others come back, also where the solve failed later.
            if self.reversible and ended:
                recording.keep(len(recording.actions), ended[0])

    def _recorded(self, loop: AdaptiveLoop, y: Tensor, recording: Recording, carries: list[Carry]) -> Iterator[Step]:
        """The steps; ``carries`` holds the newest carry."""
        problem, tally, hooks, now = self.problem, loop.field.tally, loop.hooks, recording.now
        # The loop evaluates a slope before its first step, and after a jump.
        evaluations, begun, around = tally.evaluations, now(), now()
        fresh, ended, companion = True, None, y if self.reversible else None

        def before(t: float, y: Tensor, h: float) -> None:
            nonlocal fresh, around
            if hooks.step is not None:
                hooks.step(t, y, h)
            if fresh and tally.evaluations > evaluations:
                time = problem.clock.after(t, problem.direction) if recording.actions else t
                # The slope that is replaced is part of the carry, as it is where the carry comes from a step again.
                recording.add(Action(time, None, begun), _carry(y, ended, companion) if recording.actions else y)
            fresh, around = False, now()

        loop.hooks = replace(hooks, step=before)
        for step in loop.steps(problem.times[0], y, problem.direction):
            trial = step.trial
            recording.add(Action(step.t0, step.t1, around), _carry(step.y0, trial.start, companion))
            companion = trial.companion
            carries[:] = [_carry(trial.y1, trial.end, companion)]
            yield step
            evaluations, begun, fresh, ended = tally.evaluations, now(), True, trial.end

    def run(self, n: int, action: Action, carry: Carry) -> tuple[Carry, list[Tensor]]:
        """The carry after the action ``n``, and the states that are wanted of it."""
        loop = self.loop
        y, slope, *rest = (carry, carry, *([carry] if self.reversible else [])) if n == 0 else carry
        companion = rest[0] if rest else None
        if action.t1 is None:  # the first action is one, and needs no slope
            return _carry(y, loop.field(loop.clock.tensors([action.t0])[0], y), companion), []
        trial = loop.attempt(self.stage(n, action), action.t1 - action.t0, y, slope, companion)
        step = Step(action.t0, action.t1, y, trial, loop.method, loop.clock.shift)
        return _carry(trial.y1, trial.end, trial.companion), wanted_states(self.problem, action, step)

    @property
    def reversible(self) -> bool:
        """Whether actions can be taken back."""
        return isinstance(self.loop.method, Paired)

    def back(self, n: int, action: Action, carry: Carry) -> Carry:
        """The carry before the action ``n``, from the one after it; no step reads its slope, which stays."""
        loop = self.loop
        if not isinstance(loop.method, Paired):
            raise ConfigurationError(f"steps of {self.name} cannot be taken back")
        if action.t1 is None:
            return carry
        y, slope, companion = carry
        y, companion = loop.method.unstep(self.stage(n, action), action.t1 - action.t0, y, companion)
        return y, slope, companion


def _carry(y: Tensor, slope: Tensor | None, companion: Tensor | None) -> Carry:
    return (y, slope) if companion is None else (y, slope, companion)
