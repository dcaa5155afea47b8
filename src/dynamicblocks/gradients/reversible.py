"""Gradients of a solve by steps that are taken back one by one: memory does not grow with their number."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.buffers import RandomState
from dynamicblocks.gradients.gradient import Course, Gradient, gradients
from dynamicblocks.gradients.tape import Around, Replayable, taped
from dynamicblocks.integrators import METHODS, PAIRS, TABLEAUS, Carry, GridMethod, ReversibleHeun, ReversibleRungeKutta
from dynamicblocks.solving.grid_loop import GridCourse, ProblemOnGrid
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.recording import Action
from dynamicblocks.solving.scipy_solver import ScipyCourse


@gradients.register("reversible")
@dataclass(frozen=True)
class Reversible(Gradient):
    """Keep the carry at the end alone; the backward pass takes each step back, and then again with a graph.

    For integrators with ``unstep``. The states that come back differ from those of the first pass by rounding errors,
    which grow with the steps where the solution decays. Where the field depends on buffers that it changes, or draws
    random numbers, alf alone gives back the same states: the others evaluate in another order on the way back.

    Source: Zhuang et al. 2021, arXiv:2102.04668; Kidger et al. 2021, arXiv:2105.13493.
    """

    serves_blocks = False

    def check(self, layers: Iterable[nn.Module]) -> None:
        raise ConfigurationError(
            "gradient='reversible' takes back the steps of odeint and solve, not those of blocks; in a block "
            "gradient='checkpoint' needs little memory"
        )

    def check_course(self, course: Course) -> None:
        if isinstance(course, ScipyCourse) or not course.reversible:
            explicit = course.name if course.name in {each.name for each in (*TABLEAUS, *PAIRS)} else "rk4"
            raise ConfigurationError(
                f"gradient='reversible' needs a method whose steps can be taken back "
                f"({', '.join(reversible_methods())}), got {course.name}. The method \"reversible('{explicit}')\" "
                "makes those of an explicit Runge-Kutta method such; gradient='checkpoint' needs little memory with any"
            )
        if isinstance(course, ProblemOnGrid) and _shares_slopes(course) and course.field.perturb:
            raise ConfigurationError(
                "gradient='reversible' cannot take back steps of reversible_heun with perturb=True: a slope would "
                "serve two steps, which see the field at different times. Use alf"
            )

    def run(self, course: Course, y: Tensor) -> Outputs:
        self.check_course(course)
        assert not isinstance(course, ScipyCourse)
        begun = RandomState.now(y)
        found = taped(course, y, LastOne(), "reversible")
        drawn = found.states[-1].requires_grad and not begun.equals(RandomState.now(y))
        if drawn and _draws_in_another_order(course):
            raise ConfigurationError(
                f"func draws random numbers: gradient='reversible' cannot take back steps of {course.name}, whose "
                "slopes are evaluated in another order on the way back. Use alf, or gradient='checkpoint'"
            )
        return found


def _shares_slopes(course: GridCourse) -> bool:
    return isinstance(course.integrator, ReversibleHeun) and course.integrator.reuse


def _draws_in_another_order(course: Course) -> bool:
    """Whether a step that is taken back evaluates its slopes in another order, or those of another step."""
    return not isinstance(course, GridCourse) or isinstance(course.integrator, ReversibleHeun | ReversibleRungeKutta)


def reversible_methods() -> list[str]:
    """Names of the methods whose steps can be taken back."""
    known = {name: method for name, method in METHODS.items() if isinstance(method, GridMethod) and not method.open}
    return [name for name, method in known.items() if method.make().reversible]


@dataclass
class LastOne:
    """Keeps the last carry, from which the others come back."""

    carries: list[Carry] = field(default_factory=list)

    def keep(self, n: int, carry: Carry) -> None:
        self.carries = [carry]

    def earlier(
        self, course: Replayable, actions: Sequence[Action], carries: Sequence[Carry], around: Around
    ) -> Iterator[tuple[int, Carry]]:
        (carry,) = carries
        for n in range(len(actions) - 1, -1, -1):
            if n:  # the initial state itself is known
                carry = around(n, partial(_taken_back, n, actions[n], carry))
            yield n, carry


def _taken_back(n: int, action: Action, carry: Carry, course: Replayable) -> Carry:
    with torch.no_grad():
        return course.back(n, action, carry)
