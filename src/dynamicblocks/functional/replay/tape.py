"""The backward pass over the actions of a solve, the last one first."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.lost import apart_from_each_other, describe_lost, lost_tensors
from dynamicblocks.functional.replay.actions import Course, Keeper
from dynamicblocks.functional.replay.carry import apart, together
from dynamicblocks.functional.replay.surroundings import Snapshot
from dynamicblocks.integrators import Carry


@dataclass
class Tape:
    """What the backward pass needs beside tensors.

    Args:
        course, keeper: as in :func:`~dynamicblocks.functional.replay.replayed`.
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


def backward(
    tape: Tape,
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
    with apart_from_each_other(known):
        found = torch.autograd.grad(
            [one for one, _ in pairs], known, [by for _, by in pairs], retain_graph=True, allow_unused=True
        )
    by = {id(each): gradient for each, gradient in zip(known, found, strict=True)}
    return [by.get(id(leaf)) for leaf in leaves], [by.get(id(each)) for each in others]


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return one if two is None else two if one is None else one + two
