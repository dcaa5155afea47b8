"""What a gradient mode is."""

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import REVERSIBLE, Adaptive, Carry, Integrator
from dynamicblocks.registry import Registry, parse_call
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

    traced: ClassVar[bool] = True
    """Whether the compiler may trace it, where it traces the block."""
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

    def check_grid(self, course: GridCourse) -> None:
        """Raise a ConfigurationError if this mode cannot run the steps of a block's grid."""

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


def check_generators(layers: Iterable[nn.Module], mode: str) -> None:
    """Raise a ConfigurationError for layers that draw from a generator of their own, which no mode can set back."""
    for layer in layers:
        for name, module in layer.named_modules():
            if any(isinstance(value, torch.Generator) for value in vars(module).values()):
                raise ConfigurationError(
                    f"gradient={mode!r} cannot replay {type(module).__name__} ({name or 'the layer itself'}): it draws "
                    "from a torch.Generator of its own; let it draw from the global one, or use gradient='backprop'"
                )


gradients: Registry[Gradient] = Registry("gradient mode")


def as_gradient(gradient: Gradient | str, **options: Any) -> Gradient:
    """A gradient mode, or the one that a string such as ``"checkpoint(states=4)"`` names.

    ``options`` are keywords of the latter, where the string has none.
    """
    if isinstance(gradient, Gradient):
        return gradient
    if isinstance(gradient, str):
        check_no_integrator(gradient)
        return gradients.create(gradient, **options)
    raise ConfigurationError(f"gradient must be a gradient mode or the name of one, got {gradient!r}")


def check_no_integrator(text: str) -> None:
    """Raise a ConfigurationError for the integrator that has the name of a gradient mode."""
    name, written, keywords = parse_call(text)
    if name == REVERSIBLE and ("coupling" in keywords or any(isinstance(each, str) for each in written)):
        raise ConfigurationError(
            f"gradient={text!r} wraps a method, which is an integrator: write integrator={text!r} in a block, "
            f"method={text!r} in odeint and solve; the gradient mode is gradient='{REVERSIBLE}'"
        )
