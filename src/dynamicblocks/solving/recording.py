"""What a first pass leaves for a backward pass that takes its steps again: what it did, one thing after another."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dynamicblocks.integrators import Carry, Stage

Between = Callable[[int, Stage], Stage]
"""(n, stage) -> what the method sees in the place of the stage of the step ``n``."""


@dataclass
class Action:
    """What a solve did at once: a step, or an evaluation of the slope that steps begin with.

    Args:
        t0, t1: the ends of the step; ``t1`` is None for an evaluation at ``t0``.
        around: what func could draw from and change, as it was; known to the gradient mode alone.
        places: of the times of output that lie on it.
        event: the time of the event, if it lies on it.
    """

    t0: float
    t1: float | None
    around: Any
    places: range = range(0)
    event: float | None = None


@dataclass
class Recording:
    """The actions of a first pass.

    Args:
        now: a record of what func could draw from and change, as it is now.
        keep: takes note of the carry before each action, with its number; on a grid also of the last one.
    """

    now: Callable[[], Any]
    keep: Callable[[int, Carry], None]
    actions: list[Action] = field(default_factory=list)
    outputs: int = 1

    def add(self, action: Action, carry: Carry) -> None:
        """Take note of an action and of the carry before it."""
        self.keep(len(self.actions), carry)
        self.actions.append(action)

    def passed(self, count: int, action: Action | None = None) -> None:
        """Take note that so many times of output, the next ones, lie on an action, by default the last."""
        begin, self.outputs = self.outputs, self.outputs + count
        (self.actions[-1] if action is None else action).places = range(begin, self.outputs)
