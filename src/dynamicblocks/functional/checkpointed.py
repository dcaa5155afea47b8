"""Gradients of the steps of a solve without their graph: the backward pass takes each step again, the last one first.

PyTorch's checkpoints would keep the nodes of the graph of all steps, some kilobytes each, and the states that implicit
stages close over. Here a solve is one node, which keeps a few carries.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import adaptive
from dynamicblocks.functional import grid as on_grid
from dynamicblocks.functional.adjoint import describe_lost
from dynamicblocks.functional.grid import GridMarch, GridStep
from dynamicblocks.functional.lost import lost_tensors
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.walk import Event, StepLike, Walk, state_at, walk
from dynamicblocks.integrators import Carry, Integrator, Size, Stage
from dynamicblocks.marching import AdaptiveMarch, Clock, SolveError, Step
from dynamicblocks.times import check_count


def checkpointed(
    problem: Problem,
    march: AdaptiveMarch | GridMarch,
    *,
    states: int,
    params: Sequence[Tensor] = (),
    modules: Sequence[nn.Module] = (),
    grid: Tensor | None = None,
    event: Event | None = None,
) -> Walk:
    """The states at the times of a problem, with the gradients of its steps from ``states`` kept ones.

    The first pass learns the steps and keeps every k-th carry, k as small as ``states`` allows. The backward pass
    splits the steps between two of them into ``states`` parts, keeps the carries in between, and so on down to one
    step, which is then taken with a graph. Of n steps each is taken once more on each of log(n) / log(states) levels,
    and ``states`` carries are kept on each (Chen et al. 2016, arXiv:1604.06174).

    Args:
        problem: what is solved; its initial state and its times get gradients.
        march: the loop over it.
        states: how many carries are kept on a level, at least 2.
        params: other tensors that get gradients. Those that func reads at the first time are found.
        modules: whose buffers func may change; they change in the first pass only.
        grid: for a loop on a grid, its points.
        event: ends the solve.

    Raises:
        ConfigurationError: too few states; in the backward pass, a tensor that would lose its gradient, and second
            derivatives.
        SolveError: as the loop does, with the states found till then, which have gradients.
    """
    if check_count(states, "states") < 2:
        raise ConfigurationError(f"states must be at least 2, the begin of a solve and a state within, got {states}")
    course = course_of(problem, march, grid)
    return replayed(problem, course, Spread(states), "checkpoint", params, modules, event)


@dataclass
class Action:
    """What a solve did at once: a step, or an evaluation of the slope that steps begin with.

    Args:
        t0, t1: the ends of the step; ``t1`` is None for an evaluation at ``t0``.
        around: what func could draw from and change, as it was.
        places: of the times of output that lie on it.
        event: the time of the event, if it lies on it.
    """

    t0: float
    t1: float | None
    around: "Snapshot"
    places: list[int] = field(default_factory=list)
    event: float | None = None

    def outputs(self, problem: Problem, step: StepLike) -> list[Tensor]:
        """The states that are wanted of the step."""
        found = [state_at(problem, step, problem.times[place], problem.t[place]) for place in self.places]
        return found if self.event is None else [*found, state_at(problem, step, self.event)]


class Course(Protocol):
    """A solve whose actions can be taken one by one, once the first pass has learnt them."""

    actions: list[Action]

    @property
    def inputs(self) -> tuple[Tensor, Tensor | None]:
        """The times, and the grid if it is one with a gradient."""
        ...

    def moving(self, y0: Tensor, t: Tensor, grid: Tensor | None) -> "Course":
        """The same with tensors of these values."""
        ...

    def steps(self) -> Iterator[StepLike]:
        """The steps as they are, with nothing learnt."""
        ...

    def first(self, record: "Record", event: Event | None) -> Walk:
        """The first pass."""
        ...

    def start(self, y: Tensor) -> Carry:
        """The carry before the first action."""
        ...

    def run(self, n: int, carry: Carry) -> tuple[Carry, list[Tensor]]:
        """The carry after the action ``n``, and the states that are wanted of it."""
        ...


class Keeper(Protocol):
    """What is kept of the first pass, and how the carries before each action come back from it."""

    carries: list[Carry]

    def offer(self, n: int, carry: Carry) -> None:
        """Take note of the carry before the action ``n``; on a grid also of the last one, after them all."""
        ...

    def earlier(self, course: Course, carries: Sequence[Carry], around: "Around") -> Iterator[tuple[int, Carry]]:
        """Each action with the carry before it, the last one first."""
        ...


Around = Callable[[int, Callable[[], Any]], Any]
"""Calls a function with random numbers and buffers as they were before an action."""


@dataclass
class Spread:
    """Every k-th carry, k so small that there are at most ``most``; what lies between is marched again."""

    most: int
    every: int = 1
    carries: list[Carry] = field(default_factory=list)

    def offer(self, n: int, carry: Carry) -> None:
        if n % self.every == 0 and len(self.carries) == self.most:
            self.carries, self.every = self.carries[::2], 2 * self.every
        if n % self.every == 0:
            self.carries.append(carry)

    def earlier(self, course: Course, carries: Sequence[Carry], around: "Around") -> Iterator[tuple[int, Carry]]:
        last = len(course.actions)
        for place in range(len(carries) - 1, -1, -1):
            first = place * self.every
            yield from self._between(course, carries[place], first, last, around)
            last = min(first, last)

    def _between(
        self, course: Course, carry: Carry, first: int, last: int, around: "Around"
    ) -> Iterator[tuple[int, Carry]]:
        steps = last - first
        if steps == 1:
            yield first, carry
        if steps <= 1:
            return
        count = min(self.most, steps)
        bounds = [first + steps * part // count for part in range(count)]
        kept = [carry]
        for n in range(first, bounds[-1]):
            carry = around(n, partial(_carry_after, course, n, carry))
            if n + 1 == bounds[len(kept)]:
                kept.append(carry)
        while kept:
            begin = bounds[len(kept) - 1]
            yield from self._between(course, kept.pop(), begin, last, around)
            last = begin


def _carry_after(course: Course, n: int, carry: Carry) -> Carry:
    return course.run(n, carry)[0]


class Surroundings:
    """What a field may read and change beside its arguments: generators of random numbers, and buffers.

    Args:
        modules: whose buffers.
        like: a tensor on the device whose generator is meant, beside that of the CPU.
    """

    def __init__(self, modules: Sequence[nn.Module], like: Tensor) -> None:
        self._modules = modules
        self._like = like.detach()[..., :0] if like.ndim else like.detach()
        self._places = [
            (module._buffers, name)
            for root in modules
            for module in root.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._last: Snapshot | None = None
        self._versions: list[tuple[int, int]] = []

    def now(self) -> "Snapshot":
        """A snapshot: the last one, if nothing has changed since."""
        buffers = [_buffer(*place) for place in self._places]
        versions = [(id(buffer), buffer._version) for buffer in buffers]
        random = Random.now(self._like)
        if self._last is None or versions != self._versions or not self._last.random.equals(random):
            kept = [buffer.detach().clone() for buffer in buffers]
            self._last, self._versions = Snapshot(random, self._places, kept), versions
        return self._last


Place = tuple[dict[str, Tensor | None], str]
"""Where a module keeps a buffer."""


def _buffer(buffers: dict[str, Tensor | None], name: str) -> Tensor:
    buffer = buffers[name]
    if buffer is None:
        raise ConfigurationError(f"func removed its buffer {name} while it was evaluated")
    return buffer


@dataclass(frozen=True)
class Random:
    """The states of the generator of the CPU and of that of another device."""

    like: Tensor
    cpu: Tensor
    devices: list[int]
    states: list[Tensor]

    @classmethod
    def now(cls, like: Tensor) -> "Random":
        """Those of now."""
        return cls(like, torch.get_rng_state(), *get_device_states(like))

    def equals(self, other: "Random") -> bool:
        """Whether the same numbers are to come."""
        pairs = zip([self.cpu, *self.states], [other.cpu, *other.states], strict=True)
        return all(torch.equal(one, two) for one, two in pairs)

    def restore(self) -> None:
        """Set the generators."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            set_device_states(self.devices, self.states, device_type=self.like.device.type)


class Snapshot:
    """A context in which random numbers and copies of the buffers are as they were; what it ends in is left alone."""

    def __init__(self, random: Random, places: Sequence[Place], buffers: Sequence[Tensor]) -> None:
        self.random, self._places, self._buffers = random, places, buffers
        self._outside: tuple[Random, list[Tensor]] = random, []

    def __enter__(self) -> None:
        self._outside = Random.now(self.random.like), [_buffer(*place) for place in self._places]
        self.random.restore()
        # Clones one by one: views of one would count their changes together, and gradients would find them changed.
        self._place([buffer.clone() for buffer in self._buffers])

    def __exit__(self, *_exception: object) -> None:
        random, buffers = self._outside
        self._place(buffers)
        random.restore()

    def _place(self, buffers: Sequence[Tensor]) -> None:
        for (where, name), buffer in zip(self._places, buffers, strict=True):
            where[name] = buffer


@dataclass
class Record:
    """What the first pass leaves: its actions, and what the keeper keeps."""

    keeper: Keeper
    surroundings: Surroundings
    actions: list[Action] = field(default_factory=list)
    outputs: int = 1

    def add(self, action: Action, carry: Carry) -> None:
        """Take note of an action and of the carry before it."""
        self.keeper.offer(len(self.actions), carry)
        self.actions.append(action)

    def passed(self) -> None:
        """Take note that a time of output lies on the last action."""
        self.actions[-1].places.append(self.outputs)
        self.outputs += 1


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
        problem = replace(self.problem, y0=y0, t=t, clock=Clock(y0, t[0]))
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
        fresh = True

        def before(t: float, y: Tensor, h: float) -> None:
            nonlocal fresh, around
            if hooks.step is not None:
                hooks.step(t, y, h)
            if fresh and tally.evaluations > evaluations:
                time = problem.clock.after(t, problem.direction) if record.actions else t
                record.add(Action(time, None, begun), (y, None))
            fresh, around = False, now()

        march = replace(self.march, hooks=replace(hooks, step=before))
        for step in march.steps(problem.times[0], problem.y0, problem.direction):
            record.add(Action(step.t0, step.t1, around), (step.y0, step.trial.start))
            yield step
            evaluations, begun, fresh = tally.evaluations, now(), True

    def start(self, y: Tensor) -> Carry:
        return y, None

    def run(self, n: int, carry: Carry) -> tuple[Carry, list[Tensor]]:
        action, march, (y, slope) = self.actions[n], self.march, carry
        if action.t1 is None:
            return (y, march.field(march.clock.tensors([action.t0])[0], y)), []
        stage = march._stage(action.t0, action.t1)
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
        problem = replace(self.march.problem, y0=y0, t=t, clock=Clock(y0, t[0]))
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
            return t0, t1 - t0, self.march._stage(t0, t1, self.march._times([t0, t1])[0])
        begin, h = self.grid[n], self.grid[n + 1] - self.grid[n]
        return begin, h, self.march._moving_stage(begin, h, t0, t1)

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


def replayed(
    problem: Problem,
    course: Course,
    keeper: Keeper,
    mode: str,
    params: Sequence[Tensor],
    modules: Sequence[nn.Module],
    event: Event | None,
) -> Walk:
    """The states at the times of a problem, whose backward pass takes the actions of a course again.

    Args:
        problem, params, modules, event: as in :func:`checkpointed`.
        course: of the problem.
        keeper: keeps what that needs.
        mode: the name of the gradient mode.
    """
    (t, grid), y0 = course.inputs, problem.y0
    if not torch.is_grad_enabled():
        return walk(problem, course.steps(), event)
    surroundings = Surroundings(modules, y0)
    inputs = _inputs(problem, params, surroundings)
    if not any(each is not None and each.requires_grad for each in (y0, t, grid, *inputs)):
        return walk(problem, course.steps(), event)
    still = course.moving(y0.detach(), t.detach(), None if grid is None else grid.detach())
    record = Record(keeper, surroundings)
    autocast = _autocast(y0.device.type)
    begun = surroundings.now()
    failure: SolveError | None = None
    with torch.no_grad(), autocast():
        try:
            found = still.first(record, event)
        except SolveError as error:
            failure, found = error, Walk(list(error.circumstances.states))
    outputs = [*found.states[1:], *([] if found.event_state is None else [found.event_state])]
    if record.actions and outputs:
        record.actions[-1].event = found.event_time
        steady = all(action.around is begun for action in record.actions) and surroundings.now() is begun
        tape = _Tape(still, keeper, len(inputs), mode, autocast, begun if steady else None, torch.stack(outputs))
        outputs = list(_Replayed.apply(tape, y0, t, grid, *inputs).unbind())  # type: ignore[no-untyped-call]
    found.states = [y0, *outputs[: len(found.states) - 1]]
    if found.event_state is not None:
        found.event_state = outputs[-1] if record.actions else y0
    if failure is not None:
        failure.circumstances.states = found.states
        raise failure
    return found


def _inputs(problem: Problem, params: Sequence[Tensor], surroundings: Surroundings) -> list[Tensor]:
    """The tensors beside state and times that get gradients: those that are given, and what func reads besides."""
    given = list({id(tensor): tensor for tensor in params if tensor.requires_grad}.values())
    autocast = _autocast(problem.y0.device.type)
    (time,) = problem.clock.tensors(problem.times[:1], shifted=False)
    with surroundings.now(), torch.enable_grad(), autocast():
        y = problem.y0.detach().requires_grad_()
        slope = problem.field(time, y)
        # A view has a graph, even if the slope is a parameter itself.
        return [*given, *lost_tensors(slope.view_as(slope), [y, *given])]


def _autocast(device: str) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """The autocast of now, for later; without its cache, where casts that were made without a graph would be found."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext
    enabled, kind = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=kind, enabled=enabled, cache_enabled=False)


@dataclass
class _Tape:
    """What the backward pass needs beside tensors.

    Args:
        course, keeper: as in :func:`replayed`.
        count: of the inputs beside the initial state, the times and the grid.
        mode: the name of the gradient mode.
        autocast: that of the first pass.
        steady: the surroundings of all actions, if they are the same.
        outputs: the states; only till they are handed over.
        hollows: the carries that are kept, without their tensors.
    """

    course: Course
    keeper: Keeper
    count: int
    mode: str
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    steady: Snapshot | None
    outputs: Tensor | None
    hollows: list[Carry] = field(default_factory=list)

    def around(self, n: int, function: Callable[[], Any]) -> Any:
        """What a function returns with the surroundings of an action."""
        if self.steady is not None:
            return function()
        with self.course.actions[n].around:
            return function()


class _Replayed(torch.autograd.Function):
    """The states that a first pass found, and their gradients by taking its actions again."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, y0: Tensor, t: Tensor, grid: Tensor | None, *inputs: Tensor) -> Tensor | None:
        kept = [apart(carry) for carry in tape.keeper.carries]
        tape.hollows, tape.keeper.carries = [hollow for _, hollow in kept], []
        ctx.tape = tape
        ctx.save_for_backward(y0, t, grid, *inputs, *(tensor for tensors, _ in kept for tensor in tensors))
        outputs, tape.outputs = tape.outputs, None
        return outputs

    @staticmethod
    def backward(ctx: Any, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        tape: _Tape = ctx.tape
        y0, t, grid, *rest = ctx.saved_tensors
        inputs, tensors = rest[: tape.count], iter(rest[tape.count :])
        carries = [together(hollow, tensors) for hollow in tape.hollows]
        with torch.no_grad(), tape.autocast(), tape.steady or contextlib.nullcontext():
            found = _backward(tape, y0, t, grid, inputs, carries, by_outputs)
        if torch.is_grad_enabled():
            handle = by_outputs.new_zeros((), requires_grad=True)
            found = _Once.apply(handle, tape.mode, *found)  # type: ignore[no-untyped-call]
        return None, *found


class _Once(torch.autograd.Function):
    """Gradients that cannot be differentiated again, and say so rather than count as constants."""

    @staticmethod
    def forward(ctx: Any, _handle: Tensor, mode: str, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.mode = mode
        return tuple(None if value is None else value.clone() for value in values)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[None, ...]:
        raise ConfigurationError(
            f"gradient={ctx.mode!r} has no second derivatives; use gradient='backprop', whose steps can be "
            "differentiated twice"
        )


def _backward(
    tape: _Tape,
    y0: Tensor,
    t: Tensor,
    grid: Tensor | None,
    inputs: Sequence[Tensor],
    carries: Sequence[Carry],
    by_outputs: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of the initial state, the times, the grid and the inputs."""
    with torch.enable_grad():
        first = _leaf(y0)
        moved = [_leaf(each) if each is not None and each.requires_grad else None for each in (t, grid)]
        course = tape.course.moving(y0.detach(), t if moved[0] is None else moved[0], moved[1])
        start = course.start(first)
    others = [*moved, *inputs]
    totals: list[Tensor | None] = [None] * len(others)
    by_carry: list[Tensor | None] = []
    for n, carry in tape.keeper.earlier(course, carries, tape.around):
        action = course.actions[n]
        by_states = [by_outputs[place - 1] for place in action.places]
        by_states += [] if action.event is None else [by_outputs[-1]]
        if not by_states and all(each is None for each in by_carry):
            continue
        if n == 0:
            before = [first], start
        else:
            tensors, hollow = apart(carry)
            leaves = [_leaf(each) for each in tensors]
            before = leaves, together(hollow, iter(leaves))
        by_carry, by_others = tape.around(
            n, partial(_pulled, course, n, before, others, by_carry, by_states, tape.mode)
        )
        totals = [_sum(one, two) for one, two in zip(totals, by_others, strict=True)]
    return by_carry[0] if by_carry else None, *totals


def _leaf(tensor: Tensor) -> Tensor:
    """The same numbers, to be differentiated for."""
    leaf = tensor.detach()
    return leaf.requires_grad_() if leaf.is_floating_point() or leaf.is_complex() else leaf


def _pulled(
    course: Course,
    n: int,
    before: tuple[list[Tensor], Carry],
    others: Sequence[Tensor | None],
    by_carry: Sequence[Tensor | None],
    by_outputs: Sequence[Tensor],
    mode: str,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradients of what comes before an action and of the other inputs, from those of what comes after it."""
    leaves, carry = before
    with torch.enable_grad():
        after, outputs = course.run(n, carry)
    results = [*apart(after)[0], *outputs]
    given = [*(by_carry or [None] * (len(results) - len(outputs))), *by_outputs]
    known = [each for each in (*leaves, *others) if each is not None and each.requires_grad]
    pairs = [(one, by) for one, by in zip(results, given, strict=True) if by is not None and one.requires_grad]
    for result, _ in pairs:
        lost = lost_tensors(result, known)
        if lost:
            raise ConfigurationError(
                f"{describe_lost(lost)}, and does not read them at the first time: gradient={mode!r} would lose it. "
                "Hand them over in args, or use gradient='backprop'"
            )
    with _apart_from_each_other(known):
        found = torch.autograd.grad(
            [one for one, _ in pairs], known, [by for _, by in pairs], retain_graph=True, allow_unused=True
        )
    by = {id(each): gradient for each, gradient in zip(known, found, strict=True)}
    return [by.get(id(leaf)) for leaf in leaves], [by.get(id(each)) for each in others]


@contextlib.contextmanager
def _apart_from_each_other(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Let gradients of inputs not flow on into those of others that they were made of: the caller's graph does that."""

    def stopped(place: int, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(
            torch.zeros_like(each) if n == place and each is not None else each for n, each in enumerate(gradients)
        )

    handles = [
        each.grad_fn.register_prehook(partial(stopped, each.output_nr)) for each in inputs if each.grad_fn is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return one if two is None else two if one is None else one + two


class _Hole:
    """Where a tensor was."""


_HOLE = _Hole()


def apart(carry: Carry) -> tuple[list[Tensor], Carry]:
    """The tensors of a carry, and the carry without them."""
    tensors: list[Tensor] = []

    def taken(tensor: Tensor) -> _Hole:
        tensors.append(tensor)
        return _HOLE

    hollow = _mapped(carry, Tensor, taken)
    return tensors, hollow


def together(hollow: Carry, tensors: Iterator[Tensor]) -> Carry:
    """The carry with tensors again."""
    return _mapped(hollow, _Hole, lambda _: next(tensors))


def _mapped(carry: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The carry with all that is of a kind replaced."""
    if isinstance(carry, kind):
        return function(carry)
    if dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        values = {each.name: _mapped(getattr(carry, each.name), kind, function) for each in dataclasses.fields(carry)}
        return replace(carry, **values)
    if isinstance(carry, dict):
        return {key: _mapped(value, kind, function) for key, value in carry.items()}
    if isinstance(carry, (tuple, list)):
        return type(carry)(_mapped(value, kind, function) for value in carry)
    return carry
