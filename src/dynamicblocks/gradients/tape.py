"""A solve as one node of the graph, whose backward pass takes its actions again, the last one first."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dynamicblocks.counting import going_back
from dynamicblocks.gradients.buffers import RandomState, Snapshot, Surroundings
from dynamicblocks.gradients.carries import as_leaf, join_carry, split_carry
from dynamicblocks.gradients.evaluations import DiffersError, Notes, Replayable, check_none_lost
from dynamicblocks.gradients.graph import Listed, autocast_of_now, each_once, separate_gradients, unlisted_leaves
from dynamicblocks.integrators import Carry
from dynamicblocks.solving.failures import SolveError
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.recording import Action, Recording
from dynamicblocks.solving.refusal import differentiable_once
from dynamicblocks.tracing import untraced
from dynamicblocks.transforms import refuse_forward_mode

Through = Callable[[Replayable], Replayable]
"""A course with something between its method and its field."""


class Keeper(Protocol):
    """What is kept of the first pass, and how the carries before each action come back from it."""

    carries: list[Carry]
    by_evaluation: ClassVar[bool]
    """Whether surroundings are noted down for each evaluation, because these are made in another order again."""

    def keep(self, n: int, carry: Carry) -> None:
        """Take note of the carry before the action ``n``; on a grid also of the last one, after them all."""

    def earlier(self, replay: "Replay") -> Iterator[tuple[int, Carry, Through | None]]:
        """Each action with the carry before it, the last one first, and what the course is to be when it runs again."""


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
    refuse_forward_mode(f"gradient='{mode}'")
    t, grid = course.inputs
    surroundings, autocast = Surroundings(course.modules, y0), autocast_of_now(y0.device.type)
    begun = surroundings.now()
    still = course.moving(y0.detach(), *(None if each is None else each.detach() for each in (t, grid)))
    # The field of a block is seen at its first evaluation; another one would be seen by hooks.
    in_block = isinstance(still, GridCourse) and still.graph_of_steps
    inputs = each_once(course.tensors)
    if not in_block:
        with begun.random.again(), torch.enable_grad(), autocast():
            inputs = _inputs(still.apart(begun.buffers()), y0)
        if not any(each is not None and each.requires_grad for each in (y0, t, grid, *inputs)):
            return course.follow(y0)
    notes = None
    if keeper.by_evaluation and isinstance(still, GridCourse):
        notes = Notes(surroundings, looks=in_block)
    recording = Recording(surroundings.now if notes is None else lambda: begun, keeper.keep)
    failure: SolveError | None = None
    with torch.no_grad(), autocast():
        try:
            recorded = still if notes is None or not isinstance(still, GridCourse) else notes.of(still)
            found = recorded.record(y0.detach(), recording)
        except SolveError as error:
            failure, found = error, Outputs(list(error.circumstances.states))
    actions, before = recording.actions, found.states
    ended, outputs = found.event_state, before[1:]
    if isinstance(outputs, list):
        outputs = _stacked(outputs) if outputs else y0.new_empty((0, *y0.shape))
    if ended is not None:
        outputs = torch.cat([outputs, ended[None]])
    if notes is not None:
        known = {id(each) for each in inputs}
        inputs += [each for each in notes.leaves if id(each) not in known]
    if actions and len(outputs):
        actions[-1].event = found.event_time
        steady = notes is not None or (all(a.around is begun for a in actions) and surroundings.now() is begun)
        draws = not steady and not begun.random.equals(RandomState.now(begun.random.like))
        kept = None if notes is None else notes.end()
        tape = Tape(
            still, keeper, actions, len(inputs), mode, autocast, begun if steady else None, draws, kept, outputs
        )
        outputs = _Taped.apply(tape, y0, t, grid, *inputs)  # type: ignore[no-untyped-call]
        states = outputs if ended is None else outputs[:-1]
        if isinstance(before, list):
            # Few large states are not copied into one tensor. A single one is no part of several, so what comes behind
            # may change it in place.
            found.states = [y0, *(states.unbind() if len(states) > 1 else [states.squeeze(0)])]
        else:
            found.states = torch.cat([y0[None], states])
    else:
        found.states = [y0]
    if ended is not None:
        found.event_state = outputs[-1] if actions else y0
    if failure is not None:
        failure.circumstances.states = list(found.states)
        raise failure
    return found


def _stacked(states: Sequence[Tensor]) -> Tensor:
    """States behind each other; a single one, as of images with their channels last, keeps its layout."""
    return torch.stack(tuple(states)) if len(states) > 1 else states[0][None].clone()


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
        steady: the surroundings of all actions, if they are the same, or are noted down for each evaluation.
        draws: whether random numbers were drawn.
        notes: of the evaluations, where anything changed.
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
    notes: Notes | None
    outputs: Tensor | None
    forms: list[Carry] = field(default_factory=list)


@dataclass
class Replay:
    """A backward pass.

    Args:
        tape: of the first pass.
        live: the course on the modules themselves, of which places of buffers are known.
        course: that is taken again, on stand-ins where buffers are the same for all actions.
        y0: its first state.
        carries: that were kept.
        listed: what gets gradients, beside the carries.
        shares: whether evaluations of a way back may serve again.
    """

    tape: Tape
    live: Replayable
    course: Replayable
    y0: Tensor
    carries: Sequence[Carry]
    listed: Listed
    shares: bool

    def around(self, n: int, function: Callable[[Replayable], Any]) -> Any:
        """What a function of the course returns with the surroundings of an action."""
        tape = self.tape
        with tape.autocast():
            if tape.steady is not None:
                return function(self.course)
            then: Snapshot = tape.actions[n].around
            with then.random.again() if tape.draws else contextlib.nullcontext():
                return function(self.live.apart(then.buffers()))


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
        with torch.no_grad(), going_back(tape.course.tally):
            try:
                found = _backward(tape, y0, t, grid, inputs, carries, by_outputs)
            except DiffersError:
                found = _backward(tape, y0, t, grid, inputs, carries, by_outputs, shares=False)
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
    *,
    shares: bool = True,
) -> tuple[Tensor | None, ...]:
    """The gradients of the initial state, the times, the grid and the inputs."""
    moved = [as_leaf(each) if each is not None and each.requires_grad else None for each in (t, grid)]
    with torch.enable_grad():
        live = tape.course.moving(y0.detach(), t if moved[0] is None else moved[0], moved[1])
        course = live if tape.steady is None else live.apart(tape.steady.buffers())
    replay = Replay(tape, live, course, y0, carries, Listed([*moved, *inputs]), shares)
    totals: list[Tensor | None] = [None] * len(replay.listed.tensors)
    by_carry: list[Tensor | None] = []
    for n, carry, through in tape.keeper.earlier(replay):
        action = tape.actions[n]
        by_states = [by_outputs[action.places.start - 1 : action.places.stop - 1]] if action.places else []
        by_states += [] if action.event is None else [by_outputs[-1]]
        if not by_states and all(each is None for each in by_carry):
            continue
        before = y0 if n == 0 else carry
        by_carry, by_others = _pulled(replay, n, before, through, by_carry, by_states)
        _add(totals, by_others)
        del by_others
    return by_carry[0] if by_carry else None, *totals


def _laid_out(gradient: Tensor, like: Tensor) -> Tensor:
    """A gradient in the layout of what it is of: operations on two layouts take several times as long on a CPU."""
    return gradient if gradient.stride() == like.stride() else torch.empty_like(like).copy_(gradient)


def _add(totals: list[Tensor | None], found: Sequence[tuple[int, Tensor]]) -> None:
    for place, gradient in found:
        total = totals[place]
        totals[place] = gradient if total is None else total + gradient


def _pulled(
    replay: Replay,
    n: int,
    carry: Carry,
    through: Through | None,
    by_carry: Sequence[Tensor | None],
    by_outputs: Sequence[Tensor],
) -> tuple[list[Tensor | None], list[tuple[int, Tensor]]]:
    """The gradients of what comes before an action, and of the other inputs by their places, from those behind it."""
    tape, listed = replay.tape, replay.listed
    tensors, form = split_carry(carry)
    leaves = [as_leaf(each) for each in tensors]

    def run(course: Replayable) -> tuple[Carry, list[Tensor]]:
        with torch.enable_grad():
            course = course if through is None else through(course)
            return course.run(n, tape.actions[n], join_carry(form, iter(leaves)))

    after, outputs = replay.around(n, run)
    results = [*split_carry(after)[0], *outputs]
    given = [*(by_carry or [None] * (len(results) - len(outputs))), *by_outputs]
    pairs = [
        (one, _laid_out(by, one))
        for one, by in zip(results, given, strict=True)
        if by is not None and one.requires_grad
    ]
    places, lost = listed.met([result for result, _ in pairs], leaves)
    check_none_lost(lost, tape.mode)
    begins = [each for each in leaves if each.requires_grad]
    others = [each for place in places if (each := listed.tensors[place]) is not None]
    found = separate_gradients([one for one, _ in pairs], [*begins, *others], [by for _, by in pairs])
    by_begin = iter(found[: len(begins)])
    by_others = zip(places, found[len(begins) :], strict=True)
    return (
        [next(by_begin) if each.requires_grad else None for each in leaves],
        [(place, gradient) for place, gradient in by_others if gradient is not None],
    )
