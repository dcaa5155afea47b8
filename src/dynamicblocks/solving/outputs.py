"""The states at times of output, and at an event, from the steps of a loop."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamicblocks.integrators import Size
from dynamicblocks.integrators.interpolant import Row, combine
from dynamicblocks.solving.failures import Circumstances, NotFiniteStateError, SolveError, StepLimitError
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.recording import Action
from dynamicblocks.transforms import moves

# States of no more entries are made many at once: there a call costs more than what it computes.
SMALL = 2**12
# So many are made at once that their entries stay in the caches.
ENTRIES = 2**18
# Of so many steps at most, which hold all that their methods found.
STEPS = 2**10
# Fewer are made one by one.
FEW = 4


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

    def parts(self) -> Sequence[Tensor]:
        """What a state on the step is a weighted sum of; made once."""

    def weights(self, x: float | Tensor) -> Row:
        """The weights of the parts in the state at the fraction ``x``; ``x`` may hold many fractions."""


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
    """What was found on the way: states at the first of the times, and perhaps an event that ended it.

    Args:
        states: one by one, or in one tensor with a dimension in front.
    """

    states: list[Tensor] | Tensor = field(default_factory=list)
    event_time: float | None = None
    event_state: Tensor | None = None

    def stacked(self) -> Tensor:
        """The states in one tensor."""
        return self.states if isinstance(self.states, Tensor) else torch.stack(self.states)


def collect(
    problem: Problem,
    y0: Tensor,
    steps: Iterable[StepLike],
    event: Event | None = None,
    *,
    beyond: bool = False,
    passed: Callable[[int], None] | None = None,
    kept: StepKeeper | None = None,
) -> Outputs:
    """Follow the steps to the last time, or to the event.

    Args:
        problem: has the times of output.
        y0: the state at the first time.
        steps: from the first time on.
        event: ends the solve.
        beyond: whether an event is looked for beyond the last time, too.
        passed: called when times of output were passed, with their number.
        kept: takes the steps.

    Raises:
        SolveError: as the loop does, with the states found till then.
    """
    times, direction = problem.times, problem.direction
    if event is not None and event.happened(times[0], y0):
        return Outputs([y0], times[0], y0)
    if len(times) == 1 and not beyond:
        return Outputs([y0])
    states, event_time, event_state, count = _States(problem, y0), None, None, 1
    try:
        for step in steps:
            if kept is not None:
                kept.append(step)
            event_time = None if event is None else event.on(step, None if beyond else times[-1])
            reach, first = step.t1 if event_time is None else event_time, count
            while count < len(times) and (times[count] - reach) * direction <= 0:
                count += 1
            if count > first:
                states.take(step, first, count)
                if passed is not None:
                    passed(count - first)
            if event_time is not None:
                event_state = state_at(problem, step, event_time)
                break
            if count == len(times) and not beyond:
                break
    except SolveError as error:
        error.circumstances.times = times[:count]
        error.circumstances.states = list(states.found())
        if beyond and isinstance(error, StepLimitError):
            raise StepLimitError(
                f"no event till then; does event_fn change its sign? {error}", error.circumstances
            ) from None
        raise
    return Outputs(states.found(), event_time, event_state)


class _States:
    """The states at the times of output. Small ones are made many at once, on one step or on many.

    Args:
        problem: has the times.
        y0: the state at the first of them.
    """

    def __init__(self, problem: Problem, y0: Tensor) -> None:
        self._problem = problem
        # Where times have gradients, a state at the end of a step moves with its time as well.
        self._moving = moves(problem.t)
        entries = y0.numel()
        self._most = ENTRIES // max(entries, 1) if entries <= SMALL else 1
        self._made: list[Tensor] = []
        # Since then: states with their places, and steps with the first and last places of those to be made.
        self._known: dict[int, Tensor] = {0: y0}
        self._wanted: list[tuple[StepLike, int, int]] = []
        self._waiting = 0

    def take(self, step: StepLike, first: int, last: int) -> None:
        """The states at the times of the places ``first, ..., last - 1``, which lie on this step."""
        if self._most == 1:
            for place in range(first, last):
                self._known[place] = self._one(step, place)
            return
        at_end = self._problem.times[last - 1] == step.t1 and not self._moving
        last -= at_end
        if first < last:
            # Made now, for a slope that is read later would be one out of turn.
            step.parts()
        while first < last:
            part = min(last, first + self._most - self._waiting)
            self._wanted.append((step, first, part))
            self._waiting, first = self._waiting + part - first, part
            if self._waiting == self._most or len(self._wanted) == STEPS:
                self._flush()
        if at_end:
            self._known[last] = step.y1

    def found(self) -> list[Tensor] | Tensor:
        """All states."""
        if not self._made and self._waiting < FEW:
            self._make_each()
            return [self._known[place] for place in range(len(self._known))]
        if self._known or self._wanted:
            self._flush()
        return self._made[0] if len(self._made) == 1 else torch.cat(self._made)

    def _one(self, step: StepLike, place: int) -> Tensor:
        return state_at(self._problem, step, self._problem.times[place], self._problem.t[place])

    def _make_each(self) -> None:
        for step, first, last in self._wanted:
            self._known.update((place, self._one(step, place)) for place in range(first, last))
        self._wanted, self._waiting = [], 0

    def _flush(self) -> None:
        """Make what is wanted, in the order of the times."""
        known, wanted = self._known, self._wanted
        self._known, self._wanted, self._waiting = {}, [], 0
        blocks = [states_on(self._problem, wanted)] if wanted else []
        if known:
            blocks.append(torch.stack(list(known.values())))
        if len(blocks) == 2:
            places = torch.tensor([place for _, first, last in wanted for place in range(first, last)] + [*known])
            blocks = [torch.cat(blocks)[places.argsort().to(blocks[0].device)]]
        self._made += blocks


def state_at(problem: Problem, step: StepLike, time: float, t: Tensor | None = None) -> Tensor:
    """The state at a time on the step; ``t`` is that time as a tensor, perhaps with a gradient."""
    length = step.t1 - step.t0
    x = 1.0 if time == step.t1 else (time - step.t0) / length
    if not moves(problem.t):
        return step.state(x)
    # Where on the step the time lies depends on it, and on the ends of the step: zeros with gradients.
    moved: Any = 0.0
    for tensor, rate in ((t, 1.0), (step.begin, -1.0), (step.h, -x)):
        if isinstance(tensor, Tensor):
            moved = moved + rate * (tensor - tensor.detach()).to(problem.clock.dtype)
    return step.state(x + moved / length)


def states_on(problem: Problem, wanted: Sequence[tuple[StepLike, int, int]]) -> Tensor:
    """The states at the times of some places on each of some steps, (step, first place, last place + 1)."""
    steps, counts = [step for step, _, _ in wanted], [last - first for _, first, last in wanted]
    t0, t1 = _repeated([step.t0 for step in steps], counts), _repeated([step.t1 for step in steps], counts)
    times = torch.tensor([time for _, first, last in wanted for time in problem.times[first:last]], dtype=t0.dtype)
    x = torch.where(times == t1, 1.0, (times - t0) / (t1 - t0))
    if not moves(problem.t):
        return states_at(steps, counts, x)
    kind, device = problem.clock.dtype, problem.t.device
    moved = torch.cat([problem.t[first:last] for _, first, last in wanted])
    moved = (moved - moved.detach()).to(kind)
    for ends, rate in (([step.begin for step in steps], None), ([step.h for step in steps], x.to(device, kind))):
        tensors = [each for each in ends if isinstance(each, Tensor)]
        if tensors:
            each = torch.stack(tensors)
            change = (each - each.detach()).to(kind).repeat_interleave(torch.tensor(counts, device=device))
            moved = moved - (change if rate is None else rate * change)
    return states_at(steps, counts, x.to(device, kind) + moved / (t1 - t0).to(device, kind))


def states_at(steps: Sequence[StepLike], counts: Sequence[int], x: Tensor) -> Tensor:
    """The states at the fractions ``x`` of steps of one solve, so many on each: shape (sum of counts, *state)."""
    like = steps[0].y0
    kind = like.real.dtype if like.is_complex() else like.dtype
    # Weights are differences of larger numbers: in the precision of ``x``, which is that of times.
    wide = (-1, *(1 for _ in like.shape))
    row = tuple(
        each.to(kind).to(like.device).reshape(wide) if isinstance(each, Tensor) else each
        for each in steps[0].weights(x)
    )
    parts = [torch.stack(each) for each in zip(*(step.parts() for step in steps), strict=True)]
    if len(x) > len(steps) > 1:
        which = torch.arange(len(steps)).repeat_interleave(torch.tensor(counts)).to(like.device)
        parts = [part.index_select(0, which) for part in parts]
    return combine(row, parts)


def _repeated(values: Sequence[float], counts: Sequence[int]) -> Tensor:
    """Numbers on the CPU, each so often."""
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor(counts))


def wanted_states(problem: Problem, action: Action, step: StepLike) -> list[Tensor]:
    """The states that are wanted of a step that is taken again: at the times in one tensor, and at an event."""
    places = action.places
    found = []
    if len(places) >= FEW and step.y0.numel() <= SMALL:
        found = [states_on(problem, [(step, places.start, places.stop)])]
    elif places:
        one_by_one = [state_at(problem, step, problem.times[place], problem.t[place]) for place in places]
        found = [torch.stack(one_by_one)]
    return found if action.event is None else [*found, state_at(problem, step, action.event)]
