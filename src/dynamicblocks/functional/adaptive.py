"""The adaptive loop, set up from the options of odeint, and the states at given times from its steps."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.errors import ArgumentError, ArgumentTypeError
from dynamicblocks.functional.norms import flat_norm
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.walk import Keeper, walk
from dynamicblocks.integrators import Embedded, Tolerance
from dynamicblocks.marching import AdaptiveMarch, Hooks, Step, StepControl, Stops

MAX_STEPS = 1_000_000


def make_march(
    problem: Problem, method: Embedded, rtol: object, atol: object, options: Mapping[str, Any]
) -> AdaptiveMarch:
    """The loop for a problem."""
    number = _numbers(options)
    first = number.get("first_step")
    return AdaptiveMarch(
        problem.field,
        problem.clock,
        method,
        make_tolerance(problem, rtol, atol, options.get("norm")),
        make_control(options),
        make_stops(options, problem.times[1:] if method.meets_outputs else []),
        None if first is None else abs(float(first)),
        int(number.get("max_num_steps", MAX_STEPS)),
        Hooks(
            problem.hook("callback_step"), problem.hook("callback_accept_step"), problem.hook("callback_reject_step")
        ),
    )


def _numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are numbers."""
    number = {name: value for name, value in options.items() if name not in ("norm", "dtype", "step_t", "jump_t")}
    for name, value in number.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            number[name] = value.item()
        elif not isinstance(value, (int, float)) and value is not None:
            raise ArgumentTypeError(f"the option {name} must be a number, got {value!r:.80}")
    return number


def make_control(options: Mapping[str, Any]) -> StepControl:
    """The controller of step sizes."""
    number = _numbers(options)
    return StepControl(
        safety=float(number.get("safety", 0.9)),
        grow=float(number.get("ifactor", 10.0)),
        shrink=float(number.get("dfactor", 0.2)),
        min_step=float(number.get("min_step", 0.0)),
        max_step=float(number.get("max_step", math.inf)),
        proportional=float(number.get("pcoeff", 0.0)),
        integral=float(number.get("icoeff", 1.0)),
        derivative=float(number.get("dcoeff", 0.0)),
    )


def make_stops(options: Mapping[str, Any], outputs: Sequence[float] = ()) -> Stops:
    """The times that steps must meet: those of the options, and some times of output."""
    found: dict[str, list[float]] = {}
    for name in ("step_t", "jump_t"):
        times = options.get(name)
        if times is not None and not isinstance(times, Tensor):
            raise ArgumentTypeError(f"the option {name} must be a torch.Tensor of times, got {times!r:.80}")
        found[name] = [] if times is None else times.detach().reshape(-1).tolist()
    both = found["step_t"] + found["jump_t"]
    if len(set(both)) < len(both):
        raise ConfigurationError("`step_t` and `jump_t` must not have any repeated elements between them.")
    return Stops(sorted({*found["step_t"], *outputs} - {*found["jump_t"]}), sorted(found["jump_t"]))


def make_tolerance(problem: Problem, rtol: object, atol: object, norm: Callable[[Any], Any] | None) -> Tolerance:
    """The tolerance of a step's error."""
    relative, absolute = (_tolerance(problem, value, name) for value, name in ((rtol, "rtol"), (atol, "atol")))
    if isinstance(relative, float) and isinstance(absolute, float) and relative == absolute == 0:
        raise ArgumentError("rtol and atol cannot both be 0: no step is good enough")
    return Tolerance(relative, absolute, flat_norm(norm, problem.layout))


def _tolerance(problem: Problem, value: object, name: str) -> float | Tensor:
    value = problem.layout.tolerance(value, name)
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise ArgumentError(f"{name} cannot require gradient")
        if value.numel() > 1:
            value = value.to(problem.y0.device, problem.clock.dtype)
            try:
                torch.broadcast_to(value, problem.y0.shape)
            except RuntimeError:
                raise ArgumentError(
                    f"{name} must broadcast to the state's shape {tuple(problem.y0.shape)}, got {tuple(value.shape)}"
                ) from None
            if not bool((value >= 0).all()):
                raise ArgumentError(f"{name} must be at least 0 everywhere, got {value.min().item():g}")
            return value
        value = value.item()
    if not isinstance(value, (int, float)):
        raise ArgumentTypeError(f"{name} must be a number or a tensor, got {value!r:.80}")
    if not value >= 0:
        raise ArgumentError(f"{name} must be at least 0, got {value:g}")
    return float(value)


def steps(problem: Problem, march: AdaptiveMarch) -> Iterator[Step]:
    """The steps of a problem, without end."""
    return march.steps(problem.times[0], problem.y0, problem.direction)


def at_times(problem: Problem, march: AdaptiveMarch, kept: Keeper | None = None) -> Tensor:
    """The states at all times of the problem, time first; ``kept`` takes the steps."""

    def passed() -> None:
        march.taken = 0  # the limit is one between two times of output

    return torch.stack(walk(problem, steps(problem, march), passed=passed, kept=kept).states)
