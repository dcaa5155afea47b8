"""What an integrator is."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.parts import FIELD, PROJECTION

Size = float | Tensor
"""The size of a step: a number, or a tensor without dimensions where gradients with respect to it are wanted."""

Carry = Any
"""What an integrator carries from step to step: the state, with whatever memory the method needs beside it."""

Slope = Callable[[float, Tensor], Tensor]
"""(c, y) -> f(t + c h, y): a stage is named by its fraction of the step, not by a rounded time."""

Reads = tuple[tuple[float, str], ...]
"""What a step evaluates: fractions of the step, each with the part of the layer that is read there."""


FIRST_ORDER = "y' = f(t, y)"
"""The equation that most methods solve, f the field of the layer."""


class Stage(Protocol):
    """A right-hand side on one step, with the weights that it has there."""

    def __call__(self, c: float, y: Tensor, /) -> Tensor:
        """f(t + c h, y)."""

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """A named part of the layer, at the fraction c of the step; numbers and tensors in ``extra`` are handed on."""


@dataclass(frozen=True)
class FieldStage:
    """The stage of a function that has no parts."""

    slope: Slope

    def __call__(self, c: float, y: Tensor) -> Tensor:
        return self.slope(c, y)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        if name != FIELD or extra:
            raise ConfigurationError(f"a plain function has no part {name!r}; give a layer that declares its parts")
        return self.slope(c, y)


class Integrator(ABC):
    """A one-step map y(t) -> y(t + h) of a declared order.

    The life of a solve is ``carry = begin(stage, h, y)`` with the stage and the size of the first step, then
    ``carry = advance(stage, h, carry)`` for each step, then ``finish(carry)``, which gives the state; ``finish`` may be
    called after any step. A carry has the same form from first to last: tensors and numbers, in tuples, dicts or
    dataclasses. A one-step method carries the state itself.

    An integrator with weights is an ``nn.Module`` as well. Each block has an instance of its own.
    """

    begins: ClassVar[bool] = False
    """Whether its carry is more than the state: whether there is a ``begin``."""
    reversible: ClassVar[bool] = False
    """Whether steps can be taken back: whether there is an ``unstep``."""
    restarts: ClassVar[bool] = False
    """Whether a jump of the field between two steps concerns it: whether there is a ``restart``."""
    equal_steps: ClassVar[bool] = False
    """Whether all steps must be of one size."""
    looks_back: ClassVar[bool] = False
    """Whether a step depends on the size of the one before, so that ``unstep`` is told that size as well."""
    irreversible: ClassVar[str] = "none was written"
    """Why steps cannot be taken back, where they cannot: a clause."""
    restart_derivatives: int = 0
    """Up to which derivative in time of the field a jump concerns it, if it ``restarts``; 0: of the field alone."""
    takes_past: bool = False
    """Whether it begins from two states, the second one step before the first: by ``begin_after``, not ``begin``."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.begins = cls.begin is not Integrator.begin
        cls.reversible = cls.unstep is not Integrator.unstep
        cls.restarts = cls.restart is not Integrator.restart

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
    def reads(self) -> Reads:
        """What it evaluates in a step, in this order: a fraction of the step and a part of the layer each.

        A step may read less, never more. Fractions lie between 0 and 1, both read from inside the step.
        """

    @property
    def equation(self) -> str:
        """What it solves ever better as steps become shorter: methods with the same text solve the same equation.

        Empty where there is no such equation, because with other steps it is another function.
        """
        return FIRST_ORDER

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions of a step at which it reads the field."""
        return tuple(c for c, part in self.reads if part == FIELD)

    @property
    def evaluations(self) -> int:
        """Evaluations of the layer in one step; the least there can be, where the cost is not fixed."""
        return sum(1 for _, part in self.reads if part != PROJECTION)

    @property
    def evaluations_to_begin(self) -> int:
        """Evaluations before the first step."""
        return 0

    @property
    def fixed_cost(self) -> bool:
        """Whether every step takes the same number of evaluations, so that they need not be counted."""
        return True

    @property
    def solves_equations(self) -> bool:
        """Whether a stage is the solution of an equation, for which the field is evaluated again and again."""
        return False

    @property
    def drifts(self) -> bool:
        """Whether errors grow on the way back whatever the field is, so that it is measured where that led."""
        return False

    @property
    def shorthand(self) -> str:
        """What :func:`as_integrator` makes it from: the name, with arguments where there are any."""
        return self.name

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Carry:
        """The carry before the first step, whose stage and size these are."""
        return y

    def begin_after(self, stage: Stage, h: Size, y: Tensor, before: Tensor) -> Carry:
        """The carry before the first step, where ``before`` is the state one step earlier; if it ``takes_past``."""
        raise ConfigurationError(f"{self.name} begins from one state and takes none from before it")

    def resumed(self, y: Tensor) -> Carry:
        """The carry after a step that ended in ``y``, where the state says it all."""
        if self.begins:
            raise ConfigurationError(f"{self.name} carries more than the state, and the state alone does not say what")
        return y

    @abstractmethod
    def advance(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        """The carry one step of size ``h`` later."""

    def finish(self, carry: Carry) -> Tensor:
        """The state that a carry holds: by default the carry, or the first entry of a tuple."""
        return carry[0] if isinstance(carry, tuple) else carry

    def amend(self, carry: Carry, change: Callable[[Tensor], Tensor]) -> Carry:
        """The carry with its newest state y replaced by ``change(y)``: what :meth:`finish` reads by default."""
        if type(carry) is tuple:
            return change(carry[0]), *carry[1:]
        if isinstance(carry, Tensor):
            return change(carry)
        raise ConfigurationError(
            f"{self.name} carries a {type(carry).__name__}, so it needs finish(carry) and amend(carry, change)"
        )

    def unstep(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        """The carry one step earlier, where steps can be taken back; ``stage`` and ``h`` are those of that step.

        A method that ``looks_back`` takes a fourth argument, ``previous``: the size of the step before that one. None,
        its default, says that there was none, or that it was as long.
        """
        raise ConfigurationError(f"steps of {self.name} cannot be taken back: it has no unstep, {self.irreversible}")

    def take_back(self, stage: Stage, h: Size, carry: Carry, previous: Size | None) -> Carry:
        """As :meth:`unstep`, with the size of the step before, if there was one, for those that need it."""
        unstep: Callable[..., Carry] = self.unstep
        return unstep(stage, h, carry, previous) if self.looks_back else unstep(stage, h, carry)

    def restart(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        """The carry after a jump of the field, before the step whose stage and size these are.

        What a carry remembers of the field before may have to go.
        """
        return carry

    def for_block(self, steps: int, width: int | None) -> Self:
        """The instance of a block with so many steps, whose state has so many channels (None: not known).

        One with weights makes them here, by default as a copy of what it has.
        """
        return copy.deepcopy(self) if isinstance(self, nn.Module) else self

    def refined(self, factor: int) -> Self:
        """The instance for a grid of which each step was cut into ``factor``; weights that it keeps are copies."""
        return copy.deepcopy(self) if isinstance(self, nn.Module) else self

    @property
    def bound_to_steps(self) -> str:
        """Why a block of another number of steps would be another function, and no better one: a clause, if it would.

        The number of steps is then never changed.
        """
        return ""

    @property
    def unused_weights(self) -> tuple[str, ...]:
        """Names of weights of its own that no step of its block reads."""
        return ()

    def start(self, f: Callable[[float, Tensor], Tensor], t: float, h: float, y: Tensor) -> Carry:
        """The carry before a first step of size ``h`` from time ``t`` with a field ``f(t, y)``."""
        return self.begin(FieldStage(lambda c, at: f(t + c * h, at)), h, y)

    def step(self, f: Callable[[float, Tensor], Tensor], t: float, h: float, carry: Carry) -> Carry:
        """One step of size ``h`` from time ``t`` with a field ``f(t, y)``.

        >>> import torch
        >>> from dynamicblocks.integrators import as_integrator
        >>> as_integrator("midpoint").step(lambda t, y: 2 * t + 0 * y, 1.0, 0.5, torch.tensor(1.0))
        tensor(2.2500)
        """
        return self.advance(FieldStage(lambda c, y: f(t + c * h, y)), h, carry)


# Steps are of one size if they differ by no more than this share of it, or than points in single precision do.
SAME_SIZE, ROUNDING = 1e-6, 2.0**-22


def check_steps(integrator: Integrator, points: Sequence[float]) -> None:
    """Raise a ConfigurationError for a grid on which the integrator has no steps."""
    if not integrator.equal_steps:
        return
    sizes = [abs(end - start) for start, end in pairwise(points)]
    rounding = ROUNDING * max(abs(points[0]), abs(points[-1]))
    if max(sizes) - min(sizes) > SAME_SIZE * max(sizes) + rounding:
        raise ConfigurationError(
            f"{integrator.name} needs steps of one size, and these are between {min(sizes):.9g} and {max(sizes):.9g} "
            "long; take equal steps, such as times='uniform(0, 8, steps=8)', or another integrator"
        )
