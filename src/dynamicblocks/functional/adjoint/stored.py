"""The states of a forward pass, for a backward pass that reads them."""

from bisect import bisect_left

import torch
from torch import Tensor

from dynamicblocks.integrators import Embedded
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.marching import Step


class StoredSteps:
    """The solution on the steps of a solve, with no more of each than its interpolant needs.

    Args:
        direction: 1 where time runs up, -1 where it runs down.
    """

    def __init__(self, direction: float) -> None:
        self._direction = direction
        self._methods: list[Embedded] = []
        self._begins: list[float] = []
        self._ends: list[float] = []  # times the direction, so that they grow
        self._parts: list[list[Tensor]] = []

    def append(self, step: Step) -> None:
        """Keep a step that was taken; two states and two slopes of it, and what its method adds."""
        self._methods.append(step.method)
        self._begins.append(step.t0)
        self._ends.append(step.t1 * self._direction)
        with torch.no_grad():
            self._parts.append(step.trial.parts(step.y0, step.h))

    def at(self, time: float) -> Tensor:
        """The state at a time; beyond the ends of the solution, the state there.

        Stages of implicit methods may lie beyond; a polynomial would lead anywhere from there.
        """
        n = min(bisect_left(self._ends, time * self._direction), len(self._ends) - 1)
        begin, end = self._begins[n], self._ends[n] * self._direction
        x = min(max((time - begin) / (end - begin), 0.0), 1.0)
        return combine(self._methods[n].weights(x), self._parts[n])
