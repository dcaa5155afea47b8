"""A solve as one node of the graph, whose backward pass takes its actions again."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.functional.lost import lost_tensors
from dynamicblocks.functional.once import once
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.replay.actions import Course, Keeper, Record
from dynamicblocks.functional.replay.carry import apart, together
from dynamicblocks.functional.replay.surroundings import Surroundings
from dynamicblocks.functional.replay.tape import Tape, backward
from dynamicblocks.functional.walk import Event, Walk, walk
from dynamicblocks.marching import SolveError


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
        problem, params, modules, event: as in :func:`~dynamicblocks.functional.checkpointed.checkpointed`.
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
        tape = Tape(still, keeper, len(inputs), mode, autocast, begun if steady else None, torch.stack(outputs))
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


class _Replayed(torch.autograd.Function):
    """The states that a first pass found, and their gradients by taking its actions again."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, y0: Tensor, t: Tensor, grid: Tensor | None, *inputs: Tensor) -> Tensor | None:
        kept = [apart(carry) for carry in tape.keeper.carries]
        tape.hollows, tape.keeper.carries = [hollow for _, hollow in kept], []
        ctx.tape = tape
        ctx.save_for_backward(y0, t, grid, *inputs, *(tensor for tensors, _ in kept for tensor in tensors))
        outputs, tape.outputs = tape.outputs, None
        return outputs

    @staticmethod
    def backward(ctx: Any, by_outputs: Tensor) -> tuple[Tensor | None, ...]:
        tape: Tape = ctx.tape
        y0, t, grid, *rest = ctx.saved_tensors
        inputs, tensors = rest[: tape.count], iter(rest[tape.count :])
        carries = [together(hollow, tensors) for hollow in tape.hollows]
        with torch.no_grad(), tape.autocast(), tape.steady or contextlib.nullcontext():
            found = backward(tape, y0, t, grid, inputs, carries, by_outputs)
        message = (
            f"gradient={tape.mode!r} has no second derivatives; use gradient='backprop', whose steps can be "
            "differentiated twice"
        )
        return None, *once(found, by_outputs, message)
