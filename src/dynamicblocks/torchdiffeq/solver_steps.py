"""A solver class in torchdiffeq's form, as an integrator of this package."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import METHODS, GridMethod, Integrator, Reads, Size, Stage
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.timed_steps import TimedStage
from dynamicblocks.torchdiffeq._impl.misc import _PerturbFunc, _ReverseFunc


class Stepper(Protocol):
    """What a solver class has."""

    def _step_func(self, func: Callable[..., Tensor], t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> Any:
        """The change of the state from t0 to t1 = t0 + dt, and the slope at t0."""


class SolverSteps(Integrator):
    """The steps of a solver.

    It evaluates the field at times of its own choice. They grow, as everywhere in torchdiffeq: where those of the
    problem fall, it sees the equation of the negative time.

    Args:
        solver: takes the steps.
        func: the right-hand side, which takes ``perturb``.
        backwards: whether the times of the problem fall.
    """

    def __init__(self, solver: Stepper, func: Callable[..., Tensor], *, backwards: bool) -> None:
        self.solver, self.func, self.backwards = solver, func, backwards

    @property
    def name(self) -> str:
        return type(self.solver).__name__

    @property
    def order(self) -> int:
        return int(getattr(self.solver, "order", 1))

    @property
    def reads(self) -> Reads:
        return ((0.0, FIELD),)

    @property
    def fixed_cost(self) -> bool:
        return False

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        if not isinstance(stage, TimedStage):
            raise ConfigurationError(f"{self.name} takes steps of odeint and solve alone, for it asks for their times")
        t0, t1 = stage.ends
        if self.backwards:
            t0, t1 = -t0, -t1
        found = self.solver._step_func(self.func, t0, t1 - t0, t1, carry)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ConfigurationError(
                f"_step_func of {self.name} must return two tensors, the change of the state and the slope at the "
                f"begin of the step, got {found!r:.80}"
            )
        return carry + found[0]


def solver_method(name: str, make: Callable[..., Stepper]) -> GridMethod:
    """The method whose solver ``make`` makes from torchdiffeq's arguments: func, y0, tolerances and options.

    In blocks the name means what it meant before.
    """

    def made(problem: Problem, **options: Any) -> Integrator:
        backwards = problem.direction < 0
        func = _PerturbFunc(_ReverseFunc(problem.field, -1.0) if backwards else problem.field)
        return SolverSteps(make(func=func, y0=problem.y0, **options), func, backwards=backwards)

    why = f"{name} asks for the times of its steps, and steps of a block have none; write an Integrator instead"
    return GridMethod(name, make=made, open=True, block=METHODS[name].block if name in METHODS else why)
