"""What the options of odeint and solve mean: tolerances, the control of steps, times to be met, grids."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ArgumentTypeError, ConfigurationError, warn_caller
from dynamicblocks.integrators import Tolerance
from dynamicblocks.solving.adaptive_loop import Stops
from dynamicblocks.solving.field import Field
from dynamicblocks.solving.nesting import Nesting
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.times import MAX_STEPS

# torchdiffeq's names of what a controller of step sizes has.
CONTROL = {
    "safety": "safety", "ifactor": "grow", "dfactor": "shrink", "min_step": "min_step", "max_step": "max_step",
    "pcoeff": "proportional", "icoeff": "integral", "dcoeff": "derivative",
}  # fmt: skip


def numbers(options: Mapping[str, Any]) -> dict[str, Any]:
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
    number = numbers(options)
    return StepControl(**{ours: float(number[theirs]) for theirs, ours in CONTROL.items() if theirs in number})


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
    nesting = problem.nesting
    return Tolerance(*tolerances(nesting, problem.y0, rtol, atol, problem.eps, warns=problem.warns), nesting.norm(norm))


def tolerances(
    nesting: Nesting, y0: Tensor, rtol: object, atol: object, eps: float, *, warns: bool = True
) -> tuple[float | Tensor, float | Tensor]:
    """Rtol and atol for the one tensor, the first at least what the type that the field sees can show.

    Warns:
        UserWarning: neither can be met in the type of the state.
    """
    relative, absolute = (
        tolerance(nesting.tolerance(each, name), name, y0) for each, name in ((rtol, "rtol"), (atol, "atol"))
    )
    if isinstance(relative, float) and isinstance(absolute, float) and relative == absolute == 0:
        raise ArgumentError("rtol and atol cannot both be 0: no step is good enough")
    if not y0.numel():
        return relative, absolute
    # Of wider types a tenth: the usual tolerance of odeint, 1e-7, is no more than the eps of float32.
    least = eps or torch.finfo(y0.dtype).eps / 10
    if warns and _least(relative) < least and _least(absolute) < least * float(y0.detach().abs().max()):
        kind, done = (nesting.seen, f"{least:.2g} is taken for rtol") if eps else (y0.dtype, "steps may not end")
        wider = "float" if eps else "double"
        warn_caller(
            f"rtol = {_least(relative):.3g} and atol = {_least(absolute):.3g} ask for more than numbers of {kind} can "
            f"show, so {done}; loosen them, or solve for y0.{wider}()"
        )
    if not eps:
        return relative, absolute
    return (relative.clamp_min(eps) if isinstance(relative, Tensor) else max(relative, eps)), absolute


def _least(tolerance: float | Tensor) -> float:
    return float(tolerance.min()) if isinstance(tolerance, Tensor) else tolerance


def tolerance(value: object, name: str, y0: Tensor) -> float | Tensor:
    """A tolerance that may be, for states such as ``y0``, or an error that says what is wrong with it."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise ArgumentError(f"{name} cannot require gradient")
        if value.numel() > 1:
            value = value.to(y0.device, y0.abs().dtype if y0.is_complex() else y0.dtype)
            try:
                torch.broadcast_to(value, y0.shape)
            except RuntimeError:
                raise ArgumentError(
                    f"{name} must broadcast to the state's shape {tuple(y0.shape)}, got {tuple(value.shape)}"
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


FEW = 32
"""Steps so few lose no more than as many units in the last place."""


def watch_steps(field: Field, length: float, largest: float) -> None:
    """Warn after the solve if its steps are too short to move most entries, though all together would.

    The first slope tells, on the device; it is read when all steps are made, for which the host waits anyway.

    Args:
        field: of the problem.
        length: of the whole solve.
        largest: step that will be made.
    """
    if length <= FEW * largest:
        return

    def watch(y: Tensor, slope: Tensor) -> None:
        with torch.no_grad():
            eps, size, rate = torch.finfo(y.dtype).eps, y.abs(), slope.abs()
            moving = length * rate > FEW * eps * size
            lost = moving & (largest * rate < eps / 4 * size)
            most = 2 * lost.sum() > moving.sum()

        kind, real = y.dtype, y.device.type != "meta"

        def late() -> None:
            if real and bool(most):
                wider = "solve for y0.double()" if eps > torch.finfo(torch.float64).eps else "scale the state"
                warn_caller(
                    f"steps of {largest:.3g} change most entries of the state by less than half a unit in the last "
                    f"place of {kind}, so they are lost; take longer steps, or {wider}"
                )

        field.late = late

    field.watch = watch


def make_grid(problem: Problem, options: Mapping[str, Any]) -> Tensor:
    """The grid that the options ask for: the times themselves, steps of one size, or what a function makes of them."""
    size, constructor = options.get("step_size"), options.get("grid_constructor")
    t = problem.t
    if size is not None and constructor is not None:
        raise ConfigurationError("step_size and grid_constructor are mutually exclusive arguments.")
    if size is not None:
        steps = check_step_size(problem, options, abs(problem.times[-1] - problem.times[0]))
        inner = torch.arange(steps, dtype=t.dtype, device=t.device) * (size * problem.direction) + t[0]
        return torch.cat([inner, t[-1:]]) if len(t) > 1 else t
    if constructor is None:
        return t
    grid = constructor(problem.func, problem.nesting.nested(problem.y0.clone()), t.clone())
    if not isinstance(grid, Tensor) or grid.ndim != 1:
        raise ArgumentTypeError(f"grid_constructor must return a one-dimensional tensor of times, got {grid!r:.80}")
    most = step_limit(options)
    if len(grid) - 1 > most:
        raise ConfigurationError(
            f"grid_constructor made a grid of {len(grid) - 1:,} steps, and at most {most:,} are allowed: let it make "
            f"longer steps, or {_ALLOW}"
        )
    return grid.to(t.device)


_ALLOW = "allow more with the option max_num_steps (max_steps in solve)"


def step_limit(options: Mapping[str, Any], usual: int = MAX_STEPS) -> int:
    """The option ``max_num_steps``, a whole number of at least 1."""
    most = numbers({"max_num_steps": options.get("max_num_steps", usual)})["max_num_steps"]
    if most is None or not most >= 1 or most != most // 1:
        raise ConfigurationError(f"max_num_steps must be a whole number of at least 1, got {most}")
    return int(most)


def step_size(options: Mapping[str, Any]) -> float:
    """The option of that name, positive."""
    size = float(options["step_size"])
    if not 0 < size < float("inf"):
        raise ConfigurationError(f"step_size must be positive and finite, got {size}; time may run back all the same")
    return size


def check_step_size(problem: Problem, options: Mapping[str, Any], length: float) -> int:
    """The number of steps of the option ``step_size`` in a time of this length, or an error that there are too many."""
    size, most = step_size(options), step_limit(options)
    # A remainder that only rounding made is no step of its own.
    steps = length / size - 1e-6
    if steps > most:
        raise ConfigurationError(
            f"step_size = {size:g} makes {steps:.3g} steps in a time of {length:g}, and at most {most:,} are allowed: "
            f"take a longer step_size, or an adaptive method such as dopri5, or {_ALLOW}"
        )
    if steps > 1:
        check_step_moves(size, problem.times[0], problem.t.dtype)
        check_step_moves(size, problem.times[-1], problem.t.dtype)
    return max(1, math.ceil(steps))


def check_step_moves(size: float, time: float, kind: torch.dtype) -> None:
    """Raise a ConfigurationError if a step is shorter than times of that type are apart."""
    spacing = torch.finfo(kind).eps * 2.0 ** (math.frexp(time)[1] - 1) if time else 0.0
    if size < spacing:
        raise ConfigurationError(
            f"step_size = {size:g} does not change the time: near t = {time:.9g} times of {kind} are {spacing:.3g} "
            "apart. Take a longer step_size, give t in double precision, or let it begin near zero"
        )


def check_grid(points: Sequence[float], times: Sequence[float], direction: float) -> None:
    """Raise an ArgumentError for a grid that does not lead from the first time to the last."""
    if points[0] != times[0] or points[-1] != times[-1]:
        raise ArgumentError(
            f"the grid must begin at the first time {times[0]:.9g} and end at the last {times[-1]:.9g}, got "
            f"{points[0]:.9g} and {points[-1]:.9g}"
        )
    for before, after in pairwise(points):
        if not (after - before) * direction > 0:
            raise ArgumentError(
                f"the points of the grid must go from the first time to the last, but {before:.9g} is followed by "
                f"{after:.9g}"
            )
