"""By what a problem is solved: a method with its tolerances and options, which makes courses of problems."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ConfigurationError, unknown_name
from dynamicblocks.integrators import Adaptive, AdaptiveMethod, GridMethod, Method, Tolerance
from dynamicblocks.solving import options as opt
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Hooks
from dynamicblocks.solving.events import MAX_GRID_STEPS, least
from dynamicblocks.solving.grid_loop import ProblemOnGrid
from dynamicblocks.solving.outputs import Event, StepKeeper
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.scipy_solver import ScipyCourse
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.solving.timed_steps import INTERPOLATIONS, TimedSteps

Course = ProblemOnGrid | AdaptiveCourse | ScipyCourse
"""A caller's problem as steps that can be run."""

MAX_STEPS = 1_000_000
"""Most steps of an adaptive solve, where the caller names no number."""


@dataclass(frozen=True)
class Scheme:
    """A method, tolerances, and options.

    Args:
        method: by what is solved.
        rtol, atol, options: of the call; a method that is an object brings its own.
        limit_each: whether the limit of steps is one between two times of output.
    """

    method: Method
    rtol: Any
    atol: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    limit_each: bool = False

    @property
    def settings(self) -> Adaptive | None:
        """Those of an adaptive integrator that is the method."""
        return self.method.settings if isinstance(self.method, AdaptiveMethod) else None

    @property
    def tolerances(self) -> tuple[Any, Any]:
        """Rtol and atol."""
        return (self.rtol, self.atol) if self.settings is None else (self.settings.rtol, self.settings.atol)

    def course(
        self,
        problem: Problem,
        *,
        event: Callable[[Tensor, Tensor], Tensor] | None = None,
        beyond: bool = False,
        kept: StepKeeper | None = None,
    ) -> Course:
        """The course of a problem.

        Args:
            problem: what is solved.
            event: a function of time and state, positive before the event that ends the solve.
            beyond: whether the event is looked for beyond the last time.
            kept: takes the steps.

        Raises:
            ConfigurationError: tolerances, options or a grid that cannot be.
        """
        method, watched = self.method, None
        if event is not None:
            watched = Event(problem, event, least(self.tolerance(problem, norm=None).atol))
        if isinstance(method, AdaptiveMethod):
            loop = self._loop(problem, method)
            return AdaptiveCourse(problem, loop, watched, beyond, kept, self.limit_each, self)
        if not isinstance(method, GridMethod):
            if event is not None:
                raise ConfigurationError(f"{method.name} finds no events; use another method")
            return ScipyCourse(problem, self.rtol, self.atol, self.options, self)
        given = {**self.options, "rtol": self.rtol, "atol": self.atol}
        integrator = method.make(**method.chosen(given))
        problem.declare_parts(integrator)
        name = self.options.get("interp", "linear")
        if name not in INTERPOLATIONS:
            raise unknown_name("interpolation method (option interp)", str(name), INTERPOLATIONS)
        points, grid = self._endless(problem) if beyond else self._grid(problem)
        perturb = bool(self.options.get("perturb", False))
        return ProblemOnGrid(
            integrator,
            points,
            all_times=True,
            field=TimedSteps(problem, points, [c for c, _ in integrator.reads], grid, perturb=perturb),
            problem=problem,
            scheme=self,
            interpolation=INTERPOLATIONS[name],
            event=watched,
            beyond=beyond,
            kept=kept,
        )

    def tolerance(self, problem: Problem, norm: Callable[[Any], Any] | None) -> Tolerance:
        """Of the error of a step."""
        return opt.make_tolerance(problem, *self.tolerances, norm)

    def _loop(self, problem: Problem, method: AdaptiveMethod) -> AdaptiveLoop:
        settings, options = self.settings, self.options
        number, embedded = opt.numbers(options), method.make(**method.chosen(options))
        first = number.get("first_step") if settings is None else settings.first_step
        return AdaptiveLoop(
            problem.field,
            problem.clock,
            embedded,
            self.tolerance(problem, options.get("norm")),
            opt.make_control(options) if settings is None else StepControl.of(settings),
            opt.make_stops(options, problem.times[1:] if embedded.meets_outputs else []),
            None if first is None else abs(float(first)),
            int(number.get("max_num_steps", MAX_STEPS)) if settings is None else settings.max_steps,
            Hooks(*(problem.hook(f"callback_{name}") for name in ("step", "accept_step", "reject_step"))),
        )

    def _grid(self, problem: Problem) -> tuple[list[float], Tensor | None]:
        """The points that lead from the first time to the last, and the tensor of them if it has a gradient."""
        grid = opt.make_grid(problem, self.options)
        points: list[float] = problem.times if grid is problem.t else grid.detach().tolist()
        opt.check_grid(points, problem.times, problem.direction)
        return points, grid if grid.requires_grad else None

    def _endless(self, problem: Problem) -> tuple[list[float], Tensor | None]:
        """Points of steps of one size, so many that an event should lie between them."""
        if self.options.get("step_size") is None:
            raise ArgumentError(
                f"{self.method.name} finds an event with the option step_size only: the step at which it looks"
            )
        size, t0 = opt.step_size(self.options) * problem.direction, problem.t[0]
        points = [problem.times[0] + n * size for n in range(MAX_GRID_STEPS + 1)]
        return points, t0 + size * torch.arange(len(points)).to(problem.t) if t0.requires_grad else None
