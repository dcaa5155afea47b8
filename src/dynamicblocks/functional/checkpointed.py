"""Gradients of the steps of a solve without their graph: the backward pass takes each step again, the last one first.

PyTorch's checkpoints would keep the nodes of the graph of all steps, some kilobytes each, and the states that implicit
stages close over. Here a solve is one node, which keeps a few carries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.grid import GridMarch
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.replay import Around, Course, course_of, replayed
from dynamicblocks.functional.walk import Event, Walk
from dynamicblocks.integrators import Carry
from dynamicblocks.marching import AdaptiveMarch
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

    def earlier(self, course: Course, carries: Sequence[Carry], around: Around) -> Iterator[tuple[int, Carry]]:
        last = len(course.actions)
        for place in range(len(carries) - 1, -1, -1):
            first = place * self.every
            yield from self._between(course, carries[place], first, last, around)
            last = min(first, last)

    def _between(
        self, course: Course, carry: Carry, first: int, last: int, around: Around
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
