"""Recomputation of steps in the backward pass, from a few states that were kept."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynamicblocks.counting import counted, going_back
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.buffers import Buffers, KeptBuffers, RandomState
from dynamicblocks.gradients.evaluations import Replayable
from dynamicblocks.gradients.gradient import Course, Gradient, check_generators, gradients
from dynamicblocks.gradients.tape import Replay, Through, taped
from dynamicblocks.integrators import Carry
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.recording import Action
from dynamicblocks.solving.scipy_solver import ScipyCourse
from dynamicblocks.times import check_count
from dynamicblocks.transforms import transformed

# Kept of a solve where the caller names no number: a thousand steps are taken two to three times more. A block that
# chooses its steps keeps the root of 64.
USUAL, USUAL_IN_BLOCKS = 16, 8
# Where the compiler of PyTorch 2.6 recomputes, it moves buffers again; that of 2.11 does not.
_RECOMPUTES_APART = tuple(int(each) for each in torch.__version__.split(".")[:2]) >= (2, 11)


@dataclass(frozen=True)
class Checkpoint(Gradient):
    """Keep a few states only; the backward pass takes the steps between them again.

    The gradients are those of backpropagation (Chen et al. 2016, arXiv:1604.06174; per block, with one state: ANODE,
    Gholami et al. 2019, arXiv:1902.10298). Random layers are replayed with the same draws and autocast with the same
    types; running statistics move in the forward pass alone, for recomputation runs on copies of the buffers.

    On the grid of a block, steps between two kept states are one segment, which PyTorch recomputes: gradients are
    bit-equal, can be differentiated again, and the block can be compiled, at the price of a second forward pass.
    Steps of solves, and of adaptive integrators in blocks, are so many that their graph itself, and what implicit
    stages close over, would fill the memory: there the solve is one node of the graph, without second derivatives,
    and the steps between two kept states are split again, down to one. Of n steps each is taken once more on each of
    log(n) / log(states) levels.

    Args:
        states: how many are kept (on each level); None for the square root of the number of steps in a block, 16 in a
            solve. With 1, a block keeps its input; a solve needs at least 2.
    """

    states: int | None = None

    def __post_init__(self) -> None:
        if self.states is not None:
            check_count(self.states, "states")

    def check(self, layers: Iterable[nn.Module]) -> None:
        check_generators(layers, "checkpoint")

    def check_course(self, course: Course) -> None:
        if isinstance(course, ScipyCourse):
            raise ConfigurationError(f"{course.name} has no gradient; take another method")
        if self.states == 1:
            raise ConfigurationError("states must be at least 2, the begin of a solve and a state within, got 1")

    def run(self, course: Course, y: Tensor) -> Outputs:
        if isinstance(course, GridCourse) and course.graph_of_steps:
            return course.follow(y, partial(self.advance, course))
        in_block = isinstance(course, AdaptiveCourse) and course.in_block
        if not in_block:
            self.check_course(course)
        assert not isinstance(course, ScipyCourse)
        states = max(2, self.states or (USUAL_IN_BLOCKS if in_block else USUAL))
        return taped(course, y, EveryKth(states), "checkpoint")

    def advance(self, course: GridCourse, carry: Carry, first: int, last: int) -> Carry:
        if not torch.is_grad_enabled():
            return course.advance(carry, first, last)
        steps = last - first
        count = min(steps, self.states or math.ceil(math.sqrt(steps)))
        bounds = [first + steps * part // count for part in range(count + 1)]
        for begin, end in pairwise(bounds):
            carry = _recomputed(course, carry, begin, end)
        return carry


@gradients.register("checkpoint")
def _checkpoint(states: int | None = None, segments: int | None = None) -> Checkpoint:
    """``segments`` is the name of before, which configurations and files of runs hold."""
    if segments is not None:
        check_count(segments, "segments")
    return Checkpoint(segments if states is None else states)


def _recomputed(course: GridCourse, carry: Carry, first: int, last: int) -> Carry:
    """``course.advance`` with nothing kept but its input."""
    if not torch.compiler.is_compiling():
        if transformed():  # which let nobody run steps again
            return course.advance(carry, first, last)
        return _outside_graphs(course, carry, first, last)
    if not _RECOMPUTES_APART and _moves_buffers(course.modules_read(first, last)):
        return torch.compiler.disable(_outside_graphs)(course, carry, first, last)  # type: ignore[no-untyped-call]
    # The compiler recomputes inside one graph, in which buffers are written once.
    return checkpoint(course.advance, carry, first, last, use_reentrant=False)


def _moves_buffers(modules: Iterable[nn.Module]) -> bool:
    return any(part.training and len(part._buffers) > 0 for module in modules for part in module.modules())


def _outside_graphs(course: GridCourse, carry: Carry, first: int, last: int) -> Carry:
    return checkpoint(
        _Segment(course, first, last),
        carry,
        use_reentrant=False,
        # The segment sees to it, and leaves the generator alone where nothing is drawn.
        preserve_rng_state=False,
        # Comparing the form of every saved tensor of both runs was 6 of 27 ms of bookkeeping at 64 steps.
        determinism_check="none",
    )


class _Segment:
    """Steps that run once as they are, and then again with the buffers and the random numbers of then."""

    def __init__(self, course: GridCourse, first: int, last: int) -> None:
        self._course, self._first, self._last = course, first, last
        self._kept: KeptBuffers | None = None
        self._random: RandomState | None = None

    def __call__(self, carry: Carry) -> Carry:
        course, first, last = self._course, self._first, self._last
        if self._kept is None:
            self._kept = KeptBuffers(Buffers(course.modules_read(first, last)))
            random = RandomState.now(course.state(carry) if first else carry)
            after = course.advance(carry, first, last)
            self._random = None if random.equals(RandomState.now(random.like)) else random
            return after
        again = contextlib.nullcontext() if self._random is None else self._random.again()
        with going_back(course.tally), again:
            if course.tally is None:
                begin = 0 if first else course.integrator.evaluations_to_begin
                counted(begin + (last - first) * course.integrator.evaluations)
            return course.apart(self._kept.by_place()).advance(carry, first, last)


@dataclass
class EveryKth:
    """Keeps every k-th carry, k so small that there are at most ``most``; what lies between is made again."""

    most: int
    every: int = 1
    carries: list[Carry] = field(default_factory=list)
    by_evaluation: ClassVar[bool] = False

    def keep(self, n: int, carry: Carry) -> None:
        if n % self.every == 0 and len(self.carries) == self.most:
            self.carries, self.every = self.carries[::2], 2 * self.every
        if n % self.every == 0:
            self.carries.append(carry)

    def earlier(self, replay: Replay) -> Iterator[tuple[int, Carry, Through | None]]:
        last = len(replay.tape.actions)
        for place in range(len(replay.carries) - 1, -1, -1):
            first = place * self.every
            yield from self._between(replay, replay.carries[place], first, last)
            last = min(first, last)

    def _between(
        self, replay: Replay, carry: Carry, first: int, last: int
    ) -> Iterator[tuple[int, Carry, Through | None]]:
        steps = last - first
        if steps == 1:
            yield first, carry, None
        if steps <= 1:
            return
        count = min(self.most, steps)
        bounds = [first + steps * part // count for part in range(count)]
        kept = [carry]
        for n in range(first, bounds[-1]):
            carry, _ = replay.around(n, partial(_run, n, replay.tape.actions[n], carry))
            if n + 1 == bounds[len(kept)]:
                kept.append(carry)
        while kept:
            begin = bounds[len(kept) - 1]
            yield from self._between(replay, kept.pop(), begin, last)
            last = begin


def _run(n: int, action: Action, carry: Carry, course: Replayable) -> tuple[Carry, list[Tensor]]:
    return course.run(n, action, carry)
