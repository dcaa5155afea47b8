"""What a solve did, one thing after another, and who keeps what of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.replay.surroundings import Snapshot, Surroundings
from dynamicblocks.functional.walk import Event, StepLike, Walk, state_at
from dynamicblocks.integrators import Carry


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
    around: Snapshot
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
