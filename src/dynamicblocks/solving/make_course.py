"""From a problem, and a scheme by which it is solved, to steps that can be run."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ConfigurationError, unknown_name
from dynamicblocks.integrators import AdaptiveMethod, GridMethod, Tolerance, check_steps
from dynamicblocks.integrators.implicit import ImplicitRungeKutta
from dynamicblocks.solving import options as opt
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Hooks
from dynamicblocks.solving.compiled_grid import CompiledGrid, check_compilable
from dynamicblocks.solving.events import MAX_EVENT_STEPS, least
from dynamicblocks.solving.grid_loop import ProblemOnGrid
from dynamicblocks.solving.outputs import Event, StepKeeper
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.scipy_solver import ScipyCourse
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.solving.timed_steps import INTERPOLATIONS, TimedSteps
from dynamicblocks.times import MAX_STEPS
from dynamicblocks.transforms import moves

Course = ProblemOnGrid | AdaptiveCourse | ScipyCourse
"""A caller's problem as steps that can be run."""


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
        atol = problem.nesting.tolerance(scheme.tolerances[1], "atol")
        watched = Event(problem, event, least(opt.tolerance(atol, "atol", problem.y0)))
    if isinstance(method, AdaptiveMethod):
        loop = _loop(scheme, problem, method, MAX_EVENT_STEPS if beyond else MAX_STEPS)
        return AdaptiveCourse(problem, loop, watched, beyond, kept, scheme.limit_each, scheme)
    if not isinstance(method, GridMethod):
        if event is not None:
            raise ConfigurationError(f"{method.name} finds no events; use another method")
        return ScipyCourse(problem, scheme)
    options = {**scheme.options}
    compiles = bool(options.pop("compile", False))
    if compiles and (event is not None or kept is not None):
        what = "dense=True" if event is None else "an event"
        raise ConfigurationError(f"{what} and compile=True on a grid do not go together; leave one out")
    tolerance = _tolerance(scheme, problem, norm=None) if "rtol" in method.own else None
    given: dict[str, Any] = {} if tolerance is None else {"rtol": tolerance.rtol, "atol": tolerance.atol}
    if method.open:
        given["problem"] = problem
    integrator = method.make(**method.chosen({**options, **given}))
    if compiles:
        check_compilable(method, integrator)
    if problem.eps and isinstance(integrator, ImplicitRungeKutta):
        integrator = replace(integrator, eps=problem.eps)
    name = scheme.options.get("interp", "linear")
    if name not in INTERPOLATIONS:
        raise unknown_name("interpolation method (option interp)", str(name), INTERPOLATIONS)
    if name == "cubic" and not integrator.fractions:
        raise ConfigurationError(f"interp='cubic' needs slopes, and {integrator.name} reads no field; use 'linear'")
    problem.declare_parts(integrator)
    points, grid = _endless(scheme, problem) if beyond else _grid(scheme, problem)
    check_steps(integrator, points)
    if problem.warns and len(points) > opt.FEW:
        sizes = [abs(b - a) for a, b in pairwise(points)]
        opt.watch_steps(problem.field, sum(sizes), max(sizes))
    if not method.given:
        integrator = integrator.for_block(len(points) - 1, None)
        if isinstance(integrator, nn.Module):
            integrator.requires_grad_(False)  # nobody has it but this solve
    perturb, fractions = inside_steps(scheme.options), dict(integrator.reads)
    return (CompiledGrid if compiles else ProblemOnGrid)(
        integrator,
        points,
        all_times=True,
        field=TimedSteps(problem, points, fractions, grid, perturb=perturb, strict=scheme.strict),
        problem=problem,
        scheme=scheme,
        interpolation=INTERPOLATIONS[name],
        event=watched,
        beyond=beyond,
        kept=kept,
    )


def inside_steps(options: Mapping[str, Any]) -> bool:
    """Whether stages at the ends of a step see the field from inside it; the option has two names."""
    return bool(options.get("perturb", False)) or bool(options.get("enforce_openset", False))


def _tolerance(scheme: Scheme, problem: Problem, norm: Callable[[Any], Any] | None) -> Tolerance:
    """Of the error of a step."""
    return opt.make_tolerance(problem, *scheme.tolerances, norm)


def _loop(scheme: Scheme, problem: Problem, method: AdaptiveMethod, most: int) -> AdaptiveLoop:
    settings, options = scheme.settings, scheme.options
    control = opt.make_control(options) if settings is None else StepControl.of(settings)
    if problem.warns and control.max_step < math.inf:
        opt.watch_steps(problem.field, abs(problem.times[-1] - problem.times[0]), control.max_step)
    number, embedded = opt.numbers(options), method.make(**method.chosen(options))
    first = number.get("first_step") if settings is None else settings.first_step
    return AdaptiveLoop(
        problem.field,
        problem.clock,
        embedded,
        _tolerance(scheme, problem, options.get("norm")),
        control,
        opt.make_stops(options, problem.times[1:] if embedded.meets_outputs else []),
        None if first is None else abs(float(first)),
        opt.step_limit(options, most) if settings is None else settings.max_steps,
        Hooks(*(problem.hook(f"callback_{name}") for name in ("step", "accept_step", "reject_step"))),
    )


def _grid(scheme: Scheme, problem: Problem) -> tuple[list[float], Tensor | None]:
    """The points that lead from the first time to the last, and the tensor of them if it has a gradient."""
    grid = opt.make_grid(problem, scheme.options)
    points: list[float] = problem.times if grid is problem.t else grid.detach().tolist()
    opt.check_grid(points, problem.times, problem.direction)
    return points, grid if moves(grid) else None


def _endless(scheme: Scheme, problem: Problem) -> tuple[list[float], Tensor | None]:
    """Points of steps of one size, so many that an event should lie between them."""
    if scheme.options.get("step_size") is None:
        raise ArgumentError(
            f"{scheme.method.name} finds an event with the option step_size only: the step at which it looks"
        )
    opt.check_step_moves(opt.step_size(scheme.options), problem.times[0], problem.t.dtype)
    size, t0 = opt.step_size(scheme.options) * problem.direction, problem.t[0]
    points = [problem.times[0] + n * size for n in range(MAX_EVENT_STEPS + 1)]
    far = problem.clock.far
    points = [point for point in points if -far <= point <= far]
    if len(points) < 2 or points[1] == points[0]:
        raise ArgumentError(f"a step_size of {abs(size):.3g} leads from t = {points[0]:.9g} to no other time")
    return points, t0 + size * torch.arange(len(points)).to(problem.t) if moves(t0) else None
