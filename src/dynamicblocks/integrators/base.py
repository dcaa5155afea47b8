"""What an integrator is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

Stage = Callable[[float, Tensor], Tensor]
"""A field on one step: (c, y) -> f(t + c h, y). A stage is named by its fraction of the step, not by a rounded time."""

Size = float | Tensor
"""The size of a step: a number, or a tensor without dimensions where gradients with respect to it are wanted."""

Carry = Any
"""What an integrator carries from step to step: the state, with whatever memory the method needs beside it."""


class Integrator(ABC):
    """A one-step map y(t) -> y(t + h) of a declared order.

    The life of a solve is ``carry = init(y)``, then ``carry = advance(stage, h, carry)`` for each step, then
    ``finish(carry)``, which gives the state; ``finish`` may be called after any step. A one-step method carries the
    state itself.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name under which it is known."""

    @property
    @abstractmethod
    def order(self) -> int:
        """Order of convergence of the global error."""

    @property
    @abstractmethod
    def fractions(self) -> tuple[float, ...]:
        """The fractions c of a step at which it reads the field, in the order of the evaluations."""

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in one step; the least there can be, where the cost is not fixed."""
        return len(self.fractions)

    @property
    def fixed_cost(self) -> bool:
        """Whether every step takes the same number of evaluations, so that they need not be counted."""
        return True

    @property
    def solves_equations(self) -> bool:
        """Whether a stage is the solution of an equation, for which the field is evaluated again and again."""
        return False

    @property
    def shorthand(self) -> str:
        """What :func:`as_integrator` makes it from: the name, with arguments where there are any."""
        return self.name

    def init(self, y: Tensor) -> Carry:
        """The carry before the first step."""
        return y

    @abstractmethod
    def advance(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        """The carry one step of size ``h`` later."""

    def amend(self, carry: Carry, change: Callable[[Tensor], Tensor]) -> Carry:
        """The carry with its newest state y replaced by ``change(y)``."""
        return change(carry)

    def finish(self, carry: Carry) -> Tensor:
        """The state that a carry holds."""
        return carry

    def step(self, f: Callable[[float, Tensor], Tensor], t: float, h: float, carry: Carry) -> Carry:
        """One step of size ``h`` from time ``t`` with a field ``f(t, y)``.

        >>> import torch
        >>> from dynamicblocks.integrators import as_integrator
        >>> as_integrator("midpoint").step(lambda t, y: 2 * t + 0 * y, 1.0, 0.5, torch.tensor(1.0))
        tensor(2.2500)
        """
        return self.advance(lambda c, y: f(t + c * h, y), h, carry)
