"""What a gradient mode is."""

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Adaptive, Carry, Integrator
from dynamicblocks.registry import Registry
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.grid_loop import GridCourse, ProblemOnGrid
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.scipy_solver import ScipyCourse

ProblemCourse = ProblemOnGrid | AdaptiveCourse | ScipyCourse
"""A caller's problem as steps that can be run."""

Course = GridCourse | ProblemCourse
"""Steps that can be run: a block's grid or adaptive solve, a caller's problem."""


class Gradient:
    """A way to run a course such that its result can be differentiated.

    A mode overrides :meth:`run`; one that runs the steps of grids alone may override :meth:`advance` instead.
    """

    serves_blocks: ClassVar[bool] = True
    """Whether blocks can have it."""
    of_steps: ClassVar[bool] = True
    """Whether its gradients are those of the steps; else they are those of an equation, which there must be."""

    def check(self, layers: Iterable[nn.Module]) -> None:
        """Raise a ConfigurationError if this mode cannot differentiate a block of these layers."""

    def check_integrator(self, integrator: Integrator) -> None:
        """Raise a ConfigurationError if this mode cannot run a block with this integrator."""
        if isinstance(integrator, Adaptive) and type(self).run is Gradient.run:
            raise ConfigurationError(
                f"{self!r} runs the steps of a grid, but {integrator.name} chooses its own; with an adaptive "
                "integrator use gradient='backprop' or 'checkpoint'"
            )

    def check_block(self, layers: nn.ModuleList, integrator: Integrator) -> None:
        """Raise a ConfigurationError if a block of these layers with this integrator cannot have this mode."""

    def check_course(self, course: Course) -> None:
        """Raise a ConfigurationError if this mode cannot run a course; :meth:`run` begins with it."""
        if not isinstance(course, GridCourse) and type(self).run is Gradient.run:
            raise ConfigurationError(f"{self!r} runs the steps of a grid, but {course.name} has none of its own")

    def advance(self, course: GridCourse, carry: Carry, first: int, last: int) -> Carry:
        """The carry after the steps ``first, ..., last - 1``; before the first step it is the state."""
        return course.advance(carry, first, last)

    def run(self, course: Course, y: Tensor) -> Outputs:
        """The states that a course wants, from the first one, with what a backward pass needs."""
        self.check_course(course)
        assert isinstance(course, GridCourse)
        return course.follow(y, partial(self.advance, course))


gradients: Registry[Gradient] = Registry("gradient mode")


def as_gradient(gradient: Gradient | str, **options: Any) -> Gradient:
    """A gradient mode, or the one that a string such as ``"checkpoint(states=4)"`` names.

    ``options`` are keywords of the latter, where the string has none.
    """
    if isinstance(gradient, Gradient):
        return gradient
    if isinstance(gradient, str):
        return gradients.create(gradient, **options)
    raise ConfigurationError(f"gradient must be a gradient mode or the name of one, got {gradient!r}")
