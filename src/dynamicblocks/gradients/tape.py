"""A solve as one node of the graph, whose backward pass takes its actions again, the last one first."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.buffers import RandomState, Snapshot, Surroundings
from dynamicblocks.gradients.carries import join_carry, split_carry
from dynamicblocks.gradients.graph import (
    autocast_of_now,
    described,
    each_once,
    separate_gradients,
    unlisted_leaves,
)
from dynamicblocks.integrators import Carry
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.failures import SolveError
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.recording import Action, Recording
from dynamicblocks.solving.refusal import differentiable_once
from dynamicblocks.tracing import untraced

Replayable = GridCourse | AdaptiveCourse
"""Courses whose actions can be taken again."""

Around = Callable[[int, Callable[[Replayable], Any]], Any]
"""Calls a function of the course with random numbers and buffers as they were before an action."""


class Keeper(Protocol):
    """What is kept of the first pass, and how the carries before each action come back from it."""

    carries: list[Carry]

    def keep(self, n: int, carry: Carry) -> None:
        """Take note of the carry before the action ``n``; on a grid also of the last one, after them all."""

    def earlier(
        self, course: Replayable, actions: Sequence[Action], carries: Sequence[Carry], around: Around
    ) -> Iterator[tuple[int, Carry]]:
        """Each action with the carry before it, the last one first."""


def taped(course: Replayable, y0: Tensor, keeper: Keeper, mode: str) -> Outputs:
    """The states that a course wants, whose backward pass takes its actions again.

    Args:
        course: what is solved.
        y0: its first state.
        keeper: keeps what that needs.
        mode: the name of the gradient mode.

    Raises:
        ConfigurationError: in the backward pass, a tensor that would lose its gradient, and second derivatives.
        SolveError: as the course does, with the states found till then, which have gradients.
    """
    if not torch.is_grad_enabled():
        return course.follow(y0)
    t, grid = course.inputs
    surroundings, autocast = Surroundings(course.modules, y0), autocast_of_now(y0.device.type)
    begun = surroundings.now()
    still = course.moving(y0.detach(), *(None if each is None else each.detach() for each in (t, grid)))
    with begun.random.again(), torch.enable_grad(), autocast():
        inputs = _inputs(still.apart(begun.buffers.by_place()), y0)
    if not any(each is not None and each.requires_grad for each in (y0, t, grid, *inputs)):
        return course.follow(y0)
    recording = Recording(surroundings.now, keeper.keep)
    failure: SolveError | None = None
    with torch.no_grad(), autocast():
        try:
            found = still.record(y0.detach(), recording)
        except SolveError as error:
            failure, found = error, Outputs(list(error.circumstances.states))
    actions, before = recording.actions, found.states
    ended, outputs = found.event_state, before[1:]
    if isinstance(outputs, list):
        outputs = torch.stack(outputs) if outputs else y0.new_empty((0, *y0.shape))
    if ended is not None:
        outputs = torch.cat([outputs, ended[None]])
    if actions and len(outputs):
        actions[-1].event = found.event_time
        steady = all(action.around is begun for action in actions) and surroundings.now() is begun
        draws = not steady and not begun.random.equals(RandomState.now(begun.random.like))
        tape = Tape(still, keeper, actions, len(inputs), mode, autocast, begun if steady else None, draws, outputs)
        outputs = _Taped.apply(tape, y0, t, grid, *inputs)  # type: ignore[no-untyped-call]
        states = outputs[: len(before) - 1]
        # Few large states are not copied into one tensor.
        found.states = [y0, *states.unbind()] if isinstance(before, list) else torch.cat([y0[None], states])
    else:
        found.states = [y0]
    if ended is not None:
        found.event_state = outputs[-1] if actions else y0
    if failure is not None:
        failure.circumstances.states = list(found.states)
        raise failure
    return found


def _inputs(course: Replayable, y0: Tensor) -> list[Tensor]:
    """The tensors beside state and times that get gradients: the course's, and what its field reads besides."""
    given = each_once(course.tensors)
    y = y0.detach().requires_grad_()
    slope = course.probe(y)
    # A view has a graph, even if the slope is a parameter itself.
    return [*given, *unlisted_leaves(slope.view_as(slope), [y, *given])]


@dataclass
class Tape:
    """What the backward pass needs beside tensors.

    Args:
        course, keeper: as in :func:`taped`.
        actions: of the first pass.
        count: of the inputs beside the initial state, the times and the grid.
        mode: the name of the gradient mode.
        autocast: that of the first pass.
        steady: the surroundings of all actions, if they are the same.
        draws: whether random numbers were drawn.
        outputs: the states; only till they are handed over.
        forms: the carries that are kept, without their tensors.
    """

    course: Replayable
    keeper: Keeper
    actions: Sequence[Action]
    count: int
    mode: str
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    steady: Snapshot | None
    draws: bool
    outputs: Tensor | None
    forms: list[Carry] = field(default_factory=list)

    def around(self, course: Replayable, n: int, function: Callable[[Replayable], Any]) -> Any:
        """What a function of the course returns with the surroundings of an action."""
        if self.steady is not None:
            return function(course)
        then: Snapshot = self.actions[n].around
        with then.random.again() if self.draws else contextlib.nullcontext():
            return function(course.apart(then.buffers.by_place()))


class _Taped(torch.autograd.Function):
    """The states that a first pass found, and their gradients by taking its actions again."""

    @staticmethod
    def forward(
        ctx: Any, tape: Tape, y0: Tensor, t: Tensor | None, grid: Tensor | None, *inputs: Tensor
    ) -> Tensor | None:
        kept = [split_carry(carry) for carry in tape.keeper.carries]
        tape.forms, tape.keeper.carries = [form for _, form in kept], []
        ctx.tape = tape
        ctx.save_for_backward(y0, t, grid, *inputs, *(tensor for tensors, _ in kept for tensor in tensors))
        outputs, tape.outputs = tape.outputs, None
        return outputs

    @staticmethod
    @untraced
    def backward(ctx: Any, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        tape: Tape = ctx.tape
        y0, t, grid, *rest = ctx.saved_tensors
        inputs, tensors = rest[: tape.count], iter(rest[tape.count :])
        carries = [join_carry(form, tensors) for form in tape.forms]
        with torch.no_grad(), tape.autocast():
            found = _backward(tape, y0, t, grid, inputs, carries, by_outputs)
        message = (
            f"gradient={tape.mode!r} has no second derivatives; use gradient='backprop', whose steps can be "
            "differentiated twice"
        )
        return None, *differentiable_once(found, by_outputs, message)


def _backward(
    tape: Tape,
    y0: Tensor,
    t: Tensor | None,
    grid: Tensor | None,
    inputs: Sequence[Tensor],
    carries: Sequence[Carry],
    by_outputs: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of the initial state, the times, the grid and the inputs."""
    moved = [_leaf(each) if each is not None and each.requires_grad else None for each in (t, grid)]
    with torch.enable_grad():
        course = tape.course.moving(y0.detach(), t if moved[0] is None else moved[0], moved[1])
        if tape.steady is not None:
            course = course.apart(tape.steady.buffers.by_place())
    around = partial(tape.around, course)
    others = [*moved, *inputs]
    totals: list[Tensor | None] = [None] * len(others)
    by_carry: list[Tensor | None] = []
    for n, carry in tape.keeper.earlier(course, tape.actions, carries, around):
        action = tape.actions[n]
        by_states = [by_outputs[action.places.start - 1 : action.places.stop - 1]] if action.places else []
        by_states += [] if action.event is None else [by_outputs[-1]]
        if not by_states and all(each is None for each in by_carry):
            continue
        tensors, form = split_carry(y0 if n == 0 else carry)
        leaves = [_leaf(each) for each in tensors]
        pulled = partial(_pulled, n, action, (leaves, form), others, by_carry, by_states, tape.mode)
        by_carry, by_others = around(n, pulled)
        totals = [_sum(one, two) for one, two in zip(totals, by_others, strict=True)]
    return by_carry[0] if by_carry else None, *totals


def _leaf(tensor: Tensor) -> Tensor:
    """The same numbers, to be differentiated for."""
    leaf = tensor.detach()
    return leaf.requires_grad_() if leaf.is_floating_point() or leaf.is_complex() else leaf


def _pulled(
    n: int,
    action: Action,
    before: tuple[list[Tensor], Carry],
    others: Sequence[Tensor | None],
    by_carry: Sequence[Tensor | None],
    by_outputs: Sequence[Tensor],
    mode: str,
    course: Replayable,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradients of what comes before an action and of the other inputs, from those of what comes after it."""
    leaves, form = before
    with torch.enable_grad():
        after, outputs = course.run(n, action, join_carry(form, iter(leaves)))
    results = [*split_carry(after)[0], *outputs]
    given = [*(by_carry or [None] * (len(results) - len(outputs))), *by_outputs]
    known = [each for each in (*leaves, *others) if each is not None and each.requires_grad]
    pairs = [(one, by) for one, by in zip(results, given, strict=True) if by is not None and one.requires_grad]
    for result, _ in pairs:
        lost = unlisted_leaves(result, known)
        if lost:
            raise ConfigurationError(
                f"{described(lost)}, and does not read them at the first time: gradient={mode!r} would lose it. "
                "Hand them over in args, or use gradient='backprop'"
            )
    found = separate_gradients([one for one, _ in pairs], known, [by for _, by in pairs])
    by = {id(each): gradient for each, gradient in zip(known, found, strict=True)}
    return [by.get(id(leaf)) for leaf in leaves], [by.get(id(each)) for each in others]


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return one if two is None else two if one is None else one + two
