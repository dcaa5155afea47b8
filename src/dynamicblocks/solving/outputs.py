"""The states at times of output, and at an event, from the steps of a loop."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamicblocks.integrators import Size
from dynamicblocks.solving.failures import Circumstances, NotFiniteStateError, SolveError, StepLimitError
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.recording import Action


class StepLike(Protocol):
    """A step on which states can be found; ``begin`` and ``h`` are ``t0`` and ``t1 - t0``, perhaps with gradients."""

    @property
    def t0(self) -> float: ...

    @property
    def t1(self) -> float: ...

    @property
    def begin(self) -> float | Tensor: ...

    @property
    def h(self) -> Size: ...

    @property
    def y0(self) -> Tensor: ...

    @property
    def y1(self) -> Tensor: ...

    def state(self, x: float | Tensor) -> Tensor:
        """The state at the fraction ``x`` of the step."""


class StepKeeper(Protocol):
    """A list, or something else that takes steps one after the other."""

    def append(self, step: Any, /) -> None: ...


@dataclass
class Event:
    """The first time at which a function of time and state is zero.

    Args:
        problem: what is solved.
        function: positive before the event.
        accuracy: of its time.
    """

    problem: Problem
    function: Callable[[Tensor, Tensor], Tensor]
    accuracy: float

    def happened(self, time: float, y: Tensor) -> bool:
        """Whether the event is over."""
        return self._value(time, y) <= 0

    def _value(self, time: float, y: Tensor) -> float:
        with torch.no_grad():
            (t,) = self.problem.clock.tensors([time], shifted=False)
            return float(self.function(t, y.detach()))

    def on(self, step: StepLike, last: float | None) -> float | None:
        """The time of the event, if it lies on the step, and not beyond the last time."""
        before, after = step.t0, step.t1
        if last is not None and (after - last) * (after - before) > 0:
            after = last
        with torch.no_grad():
            y = step.state((after - step.t0) / (step.t1 - step.t0))
        value = self._value(after, y)
        if value > 0:
            return None
        # Behind an event the function may be undefined, not a number; before one it must not be.
        with torch.no_grad():
            while abs(after - before) > self.accuracy:
                middle = before + (after - before) / 2
                if middle in (before, after):  # no number lies between them
                    break
                found = self._value(middle, step.state((middle - step.t0) / (step.t1 - step.t0)))
                if found > 0:
                    before = middle
                else:
                    after, value = middle, found
        if math.isnan(value):
            raise NotFiniteStateError(
                f"event_fn is not a number (NaN) at t = {after:.9g}",
                Circumstances(after, math.nan, replace(self.problem.field.tally)),
            )
        return before + (after - before) / 2


@dataclass
class Outputs:
    """What was found on the way: states at the first of the times, and perhaps an event that ended it."""

    states: list[Tensor] = field(default_factory=list)
    event_time: float | None = None
    event_state: Tensor | None = None


def collect(
    problem: Problem,
    y0: Tensor,
    steps: Iterable[StepLike],
    event: Event | None = None,
    *,
    beyond: bool = False,
    passed: Callable[[], None] | None = None,
    kept: StepKeeper | None = None,
) -> Outputs:
    """Follow the steps to the last time, or to the event.

    Args:
        problem: has the times of output.
        y0: the state at the first time.
        steps: from the first time on.
        event: ends the solve.
        beyond: whether an event is looked for beyond the last time, too.
        passed: called when a time of output was passed.
        kept: takes the steps.

    Raises:
        SolveError: as the loop does, with the states found till then.
    """
    found = Outputs([y0])
    times = problem.times
    if event is not None and event.happened(times[0], y0):
        found.event_time, found.event_state = times[0], y0
        return found
    if len(times) == 1 and not beyond:
        return found
    try:
        for step in steps:
            if kept is not None:
                kept.append(step)
            found.event_time = None if event is None else event.on(step, None if beyond else times[-1])
            reach = step.t1 if found.event_time is None else found.event_time
            _pass(problem, step, reach, found.states, passed)
            if found.event_time is not None:
                found.event_state = state_at(problem, step, found.event_time)
                break
            if len(found.states) == len(times) and not beyond:
                break
    except SolveError as error:
        error.circumstances.times = times[: len(found.states)]
        error.circumstances.states = found.states
        if beyond and isinstance(error, StepLimitError):
            raise StepLimitError(
                f"no event till then; does event_fn change its sign? {error}", error.circumstances
            ) from None
        raise
    return found


def _pass(
    problem: Problem, step: StepLike, reach: float, states: list[Tensor], passed: Callable[[], None] | None
) -> None:
    times, direction = problem.times, problem.direction
    while len(states) < len(times) and (times[len(states)] - reach) * direction <= 0:
        place = len(states)
        states.append(state_at(problem, step, times[place], problem.t[place]))
        if passed is not None:
            passed()


def state_at(problem: Problem, step: StepLike, time: float, t: Tensor | None = None) -> Tensor:
    """The state at a time on the step; ``t`` is that time as a tensor, perhaps with a gradient."""
    length = step.t1 - step.t0
    x = 1.0 if time == step.t1 else (time - step.t0) / length
    if not problem.t.requires_grad:
        return step.state(x)
    # Where on the step the time lies depends on it, and on the ends of the step: zeros with gradients.
    moved: Any = 0.0
    for tensor, rate in ((t, 1.0), (step.begin, -1.0), (step.h, -x)):
        if isinstance(tensor, Tensor):
            moved = moved + rate * (tensor - tensor.detach()).to(problem.clock.dtype)
    return step.state(x + moved / length)


def wanted_states(problem: Problem, action: Action, step: StepLike) -> list[Tensor]:
    """The states that are wanted of a step that is taken again."""
    found = [state_at(problem, step, problem.times[place], problem.t[place]) for place in action.places]
    return found if action.event is None else [*found, state_at(problem, step, action.event)]
