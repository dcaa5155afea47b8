"""Gradients of a solve by reversible steps, which are taken back one by one: memory does not grow with their number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.grid import GridMarch
from dynamicblocks.functional.methods import METHODS, GridMethod
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.replay import Around, Course, GridCourse, Random, course_of, replayed
from dynamicblocks.functional.walk import Event, Walk
from dynamicblocks.integrators import Carry, Reversible, ReversibleHeun
from dynamicblocks.marching import AdaptiveMarch


def reversed_back(
    problem: Problem,
    march: AdaptiveMarch | GridMarch,
    *,
    grid: Tensor | None = None,
    params: Sequence[Tensor] = (),
    modules: Sequence[nn.Module] = (),
    event: Event | None = None,
) -> Walk:
    """The states at the times of a problem, with the gradients of its steps from the carry at the end alone.

    The backward pass takes each step back in closed form, and then takes it again with a graph. The states that come
    back differ from those of the first pass by rounding errors, which grow with the steps where the solution decays.
    Where func depends on buffers that it changes, or draws random numbers, alf alone gives back the same states.

    Args:
        problem: what is solved; its initial state and its times get gradients.
        march: the loop over it, on a grid and with a method that has ``unstep``.
        grid: its points.
        params, modules, event: as in :func:`~dynamicblocks.functional.checkpointed.checkpointed`.

    Raises:
        ConfigurationError: a method whose steps cannot be taken back, or not with random numbers; in the backward pass,
            a tensor that would lose its gradient, and second derivatives.

    Source: Zhuang et al. 2021, arXiv:2102.04668; Kidger et al. 2021, arXiv:2105.13493.
    """
    integrator = march.method if isinstance(march, AdaptiveMarch) else march.integrator
    if isinstance(march, AdaptiveMarch) or not isinstance(integrator, Reversible):
        raise ConfigurationError(
            f"gradient='reversible' needs a method whose steps can be taken back ({', '.join(reversible_methods())}), "
            f"got {integrator.name}; gradient='checkpoint' needs little memory with any method"
        )
    if march.perturb and isinstance(integrator, ReversibleHeun) and integrator.reuse:
        raise ConfigurationError(
            "gradient='reversible' cannot take back steps of reversible_heun with perturb=True: a slope would serve "
            "two steps, which see the field at different times. Use alf"
        )
    begun = Random.now(problem.y0)
    found = replayed(problem, course_of(problem, march, grid), Last(), "reversible", params, modules, event)
    if (
        isinstance(integrator, ReversibleHeun)
        and found.states[-1].requires_grad
        and not begun.equals(Random.now(problem.y0))
    ):
        raise ConfigurationError(
            "func draws random numbers: gradient='reversible' cannot take back steps of reversible_heun, whose slopes "
            "serve two steps. Use alf, or gradient='checkpoint'"
        )
    return found


def reversible_methods() -> list[str]:
    """Names of the methods whose steps can be taken back."""
    return [name for name, method in METHODS.items() if isinstance(method, GridMethod) and _reversible(method)]


def _reversible(method: GridMethod) -> bool:
    return isinstance(method.make, type) and issubclass(method.make, Reversible)


@dataclass
class Last:
    """The last carry, from which the others come back."""

    carries: list[Carry] = field(default_factory=list)

    def offer(self, n: int, carry: Carry) -> None:
        self.carries = [carry]

    def earlier(self, course: Course, carries: Sequence[Carry], around: Around) -> Iterator[tuple[int, Carry]]:
        (carry,) = carries
        for n in range(len(course.actions) - 1, -1, -1):
            if n:  # the initial state itself is known
                carry = around(n, partial(_taken_back, course, n, carry))
            yield n, carry


def _taken_back(course: Course, n: int, carry: Carry) -> Carry:
    if not isinstance(course, GridCourse) or not isinstance(course.march.integrator, Reversible):
        raise ConfigurationError("these steps cannot be taken back")
    _, h, stage = course.step(n)
    with torch.no_grad():
        return course.march.integrator.unstep(stage, h, carry)
