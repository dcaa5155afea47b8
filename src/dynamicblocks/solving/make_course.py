"""From a problem, and a scheme by which it is solved, to steps that can be run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ConfigurationError, unknown_name
from dynamicblocks.integrators import AdaptiveMethod, GridMethod, Tolerance
from dynamicblocks.solving import options as opt
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Hooks
from dynamicblocks.solving.events import MAX_GRID_STEPS, least
from dynamicblocks.solving.grid_loop import ProblemOnGrid
from dynamicblocks.solving.outputs import Event, StepKeeper
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.scipy_solver import ScipyCourse
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.solving.timed_steps import INTERPOLATIONS, TimedSteps

Course = ProblemOnGrid | AdaptiveCourse | ScipyCourse
"""A caller's problem as steps that can be run."""

MAX_STEPS = 1_000_000
"""Most steps of an adaptive solve, where the caller names no number."""


def make_course(
    scheme: Scheme,
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
    method, watched = scheme.method, None
    if event is not None:
        watched = Event(problem, event, least(_tolerance(scheme, problem, norm=None).atol))
    if isinstance(method, AdaptiveMethod):
        loop = _loop(scheme, problem, method)
        return AdaptiveCourse(problem, loop, watched, beyond, kept, scheme.limit_each, scheme)
    if not isinstance(method, GridMethod):
        if event is not None:
            raise ConfigurationError(f"{method.name} finds no events; use another method")
        return ScipyCourse(problem, scheme)
    given = {**scheme.options, "rtol": scheme.rtol, "atol": scheme.atol}
    if method.open:
        given["problem"] = problem
    integrator = method.make(**method.chosen(given))
    name = scheme.options.get("interp", "linear")
    if name not in INTERPOLATIONS:
        raise unknown_name("interpolation method (option interp)", str(name), INTERPOLATIONS)
    if name == "cubic" and not integrator.fractions:
        raise ConfigurationError(f"interp='cubic' needs slopes, and {integrator.name} reads no field; use 'linear'")
    problem.declare_parts(integrator)
    points, grid = _endless(scheme, problem) if beyond else _grid(scheme, problem)
    if not method.given:
        integrator = integrator.for_block(len(points) - 1, None)
    perturb = bool(scheme.options.get("perturb", False))
    return ProblemOnGrid(
        integrator,
        points,
        all_times=True,
        field=TimedSteps(problem, points, [c for c, _ in integrator.reads], grid, perturb=perturb),
        problem=problem,
        scheme=scheme,
        interpolation=INTERPOLATIONS[name],
        event=watched,
        beyond=beyond,
        kept=kept,
    )


def _tolerance(scheme: Scheme, problem: Problem, norm: Callable[[Any], Any] | None) -> Tolerance:
    """Of the error of a step."""
    return opt.make_tolerance(problem, *scheme.tolerances, norm)


def _loop(scheme: Scheme, problem: Problem, method: AdaptiveMethod) -> AdaptiveLoop:
    settings, options = scheme.settings, scheme.options
    number, embedded = opt.numbers(options), method.make(**method.chosen(options))
    first = number.get("first_step") if settings is None else settings.first_step
    return AdaptiveLoop(
        problem.field,
        problem.clock,
        embedded,
        _tolerance(scheme, problem, options.get("norm")),
        opt.make_control(options) if settings is None else StepControl.of(settings),
        opt.make_stops(options, problem.times[1:] if embedded.meets_outputs else []),
        None if first is None else abs(float(first)),
        int(number.get("max_num_steps", MAX_STEPS)) if settings is None else settings.max_steps,
        Hooks(*(problem.hook(f"callback_{name}") for name in ("step", "accept_step", "reject_step"))),
    )


def _grid(scheme: Scheme, problem: Problem) -> tuple[list[float], Tensor | None]:
    """The points that lead from the first time to the last, and the tensor of them if it has a gradient."""
    grid = opt.make_grid(problem, scheme.options)
    points: list[float] = problem.times if grid is problem.t else grid.detach().tolist()
    opt.check_grid(points, problem.times, problem.direction)
    return points, grid if grid.requires_grad else None


def _endless(scheme: Scheme, problem: Problem) -> tuple[list[float], Tensor | None]:
    """Points of steps of one size, so many that an event should lie between them."""
    if scheme.options.get("step_size") is None:
        raise ArgumentError(
            f"{scheme.method.name} finds an event with the option step_size only: the step at which it looks"
        )
    size, t0 = opt.step_size(scheme.options) * problem.direction, problem.t[0]
    points = [problem.times[0] + n * size for n in range(MAX_GRID_STEPS + 1)]
    return points, t0 + size * torch.arange(len(points)).to(problem.t) if t0.requires_grad else None
