"""``solve`` with steps of its own for each sample."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional import adaptive
from dynamicblocks.functional.dense import BatchDense
from dynamicblocks.functional.errors import ArgumentError, ArgumentTypeError
from dynamicblocks.functional.methods import AdaptiveMethod
from dynamicblocks.functional.nested import Nesting, leaves, rebuilt
from dynamicblocks.functional.problem import check_times
from dynamicblocks.functional.request import Request
from dynamicblocks.functional.solution import Solution, Statistics
from dynamicblocks.integrators import Pair, Tolerance
from dynamicblocks.marching import (
    BatchedMarch,
    Carry,
    Circumstances,
    CompiledLoop,
    EventWatch,
    News,
    NotFiniteStateError,
    Outputs,
    Record,
    Status,
    StepLimitError,
    StepUnderflowError,
    Tally,
    march,
    rows_norm,
    start,
)

ERRORS = {
    Status.STEP_LIMIT: StepLimitError,
    Status.UNDERFLOW: StepUnderflowError,
    Status.NOT_FINITE: NotFiniteStateError,
}


def solve_batched(request: Request) -> Solution:
    """The solution of a request, sample by sample in one loop."""
    method = request.method
    pair = method.make(**method.chosen(request.options)) if isinstance(method, AdaptiveMethod) else None
    if not isinstance(pair, Pair):
        what = "a compiled loop" if request.compile else "batched=True"
        raise ConfigurationError(f"{what} needs an explicit adaptive method such as dopri5, got {method.name}")
    if request.gradient != "backprop":
        raise ConfigurationError(
            f"with steps of its own for each sample gradients are made by 'backprop', got {request.gradient!r}"
        )
    nesting = Nesting.of(request.y0, 1)
    y0 = nesting.flat(request.y0)
    if not (y0.is_floating_point() or y0.is_complex()):
        raise ConfigurationError(f"y0 must hold floating point or complex numbers, got {y0.dtype}. Use y0.float()")
    t = _times(request.t, len(y0), y0.device)
    direction = torch.sign(t[:, -1] - t[:, 0]).detach()
    s = (t * direction[:, None]).detach()
    field = _CountedField(nesting.func(request.func, request.args))
    loop = _loop(request, nesting, pair, field, y0, direction)
    outputs = Outputs(s, y0, pair)
    watch = _watch(request, nesting, loop, s[:, 0], y0)
    records: list[Record] = []

    compiled = _compiled(request, nesting, loop, watch) if request.compile else None
    first_step = _first_step(request.options)
    begin = start(s[:, 0], y0, lambda s, y: (compiled or loop).begin(s, y, first_step))

    def attempts(carry: Carry, end: Tensor, s: Tensor, passed: Tensor, ahead: int) -> tuple[Carry, Record, News]:
        if compiled is None:
            carry, record, news = loop.attempts(carry, end, s, passed, 1)
        else:
            carry, record, news = compiled.attempts(carry, end, s, passed, ahead)
        if request.dense:
            records.append(record)
        return carry, record, news

    end = march(begin, s[:, -1], outputs, attempts, request.max_steps, watch)
    statuses = _statuses(end, watch)
    y = outputs.states()
    evaluations = field.evaluations + (0 if compiled is None else compiled.evaluations)
    tally = Tally(evaluations, int(end.accepted.sum()), int(end.rejected.sum()))
    message = _message(statuses, end, direction, tally, request)
    if message and not request.return_failures:
        worst = next(status for status in ERRORS if status in statuses)
        raise ERRORS[worst](
            message, Circumstances(_reached(end, direction, statuses), math.nan, tally, t.tolist(), list(y.unbind()))
        )
    event_t = event_y = None
    if watch is not None:
        event_t, flat = watch.result(end.y)
        event_y = nesting.nested(torch.where(loop.wide(torch.isfinite(event_t), flat), flat, math.nan))
    interpolant = None
    if request.dense:
        dense = BatchDense(records, s[:, 0], end.s, direction, pair)

        def interpolant(at: Tensor | float) -> Any:
            states = dense(at)
            return nesting.nested(states, (len(states),))

    return Solution(
        request.t,
        nesting.nested(y, (len(y),)),
        statuses,
        Statistics(evaluations, end.accepted, end.rejected, None if request.compile else field.seconds),
        interpolant,
        event_t,
        event_y,
        message,
    )


def _times(t: object, samples: int, device: torch.device) -> Tensor:
    """The times of all samples in the loop's precision, shape (B, T)."""
    if not isinstance(t, Tensor):
        raise ArgumentError(f"t must be a torch.Tensor of times, got {type(t).__name__}")
    if t.requires_grad:
        raise ConfigurationError(
            "with steps of its own for each sample times get no gradient; detach t, or solve with batched=False"
        )
    if t.ndim == 2 and len(t) != samples:
        raise ArgumentError(f"t has times for {len(t)} samples, and y0 has {samples}")
    if t.ndim not in (1, 2) or t.shape[-1] < 2:
        raise ArgumentError(f"t must have shape (T,) or (B, T), with at least two times, got {tuple(t.shape)}")
    for row in t.reshape(-1, t.shape[-1]) if t.ndim == 2 else [t]:
        check_times(row)
    # Times are few, and their differences small: double precision where the device has it.
    kind = torch.float32 if device.type == "mps" else torch.float64
    return t.to(device, kind).expand(samples, -1).contiguous()


def _compiled(request: Request, nesting: Nesting, loop: BatchedMarch, watch: EventWatch | None) -> CompiledLoop:
    """The loop, to be compiled."""
    func = request.func
    layout = repr(rebuilt(request.y0, iter(nesting.shapes)))
    key = (loop.method.name, loop.control, request.options.get("norm"), loop.jumps, layout, request.role)
    return CompiledLoop(
        loop, request.key, key, lambda args: nesting.func(func, args), request.args, single=watch is not None
    )


class _CountedField:
    """A right-hand side over one tensor for each sample, whose calls are counted and whose first value is checked."""

    def __init__(self, func: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.func = func
        self.evaluations, self.seconds = 0, 0.0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        begin = time.perf_counter()
        slope = self.func(t, y)
        self.seconds += time.perf_counter() - begin
        if self.evaluations == 0 and (not isinstance(slope, Tensor) or slope.shape != y.shape):
            got = tuple(slope.shape) if isinstance(slope, Tensor) else type(slope).__name__
            raise ConfigurationError(
                f"func must return the slope of every entry of the state: shape {tuple(y.shape)}, got {got}; t has "
                f"shape {tuple(t.shape)}"
            )
        self.evaluations += 1
        return slope.to(y.dtype)


def _loop(
    request: Request, nesting: Nesting, pair: Pair, field: _CountedField, y0: Tensor, direction: Tensor
) -> BatchedMarch:
    options = request.options
    stops = adaptive.make_stops(options)
    both = sorted([*stops.kinks, *stops.jumps])
    places = None
    if both:
        places = torch.tensor(both, dtype=direction.dtype, device=direction.device)[None] * direction[:, None]
    return BatchedMarch(
        field,
        pair,
        Tolerance(_tolerance(request.rtol, "rtol", y0), _tolerance(request.atol, "atol", y0), _norm(options, nesting)),
        adaptive.make_control(options),
        direction,
        places,
        bool(stops.jumps),
    )


def _norm(options: Mapping[str, Any], nesting: Nesting) -> Callable[[Tensor], Tensor]:
    own = options.get("norm")
    if own is not None:
        # A caller's norm is one of a single sample.
        return torch.func.vmap(lambda flat: own(nesting.sample(flat)))
    if nesting.single:
        return rows_norm
    return lambda flat: torch.stack([rows_norm(part) for _, part in leaves(nesting.nested(flat))]).amax(0)


def _tolerance(value: object, name: str, y0: Tensor) -> float | Tensor:
    if isinstance(value, Tensor) and value.numel() > 1:
        try:
            torch.broadcast_to(value, y0.shape)
        except RuntimeError:
            raise ArgumentError(
                f"{name} must broadcast to the state's shape {tuple(y0.shape)}, got {tuple(value.shape)}"
            ) from None
        if not bool((value >= 0).all()):
            raise ArgumentError(f"{name} must be at least 0 everywhere, got {value.min().item():g}")
        return value.to(y0.device)
    if not isinstance(value, (int, float, Tensor)):
        raise ArgumentTypeError(f"{name} must be a number or a tensor, got {value!r:.80}")
    if not float(value) >= 0:
        raise ArgumentError(f"{name} must be at least 0, got {float(value):g}")
    return float(value)


def _first_step(options: Mapping[str, Any]) -> float | None:
    first = options.get("first_step")
    return None if first is None else abs(float(first))


def _watch(request: Request, nesting: Nesting, loop: BatchedMarch, s: Tensor, y0: Tensor) -> EventWatch | None:
    function = request.event_fn
    if function is None:
        return None

    def event(t: Tensor, y: Tensor) -> Tensor:
        value = function(t, nesting.nested(y), *request.args)
        if value.numel() != len(y):
            raise ConfigurationError(f"event_fn must return one number a sample, shape ({len(y)},), got {value.shape}")
        return value

    atol = request.atol
    accuracy = float(atol.min()) if isinstance(atol, Tensor) else float(atol)
    watch = EventWatch(loop, event, max(accuracy, 1e-12))
    watch.begin(s, y0)
    return watch


def _statuses(end: Carry, watch: EventWatch | None) -> list[Status]:
    finite = torch.isfinite(end.y).flatten(1).all(1) & torch.isfinite(end.slope).flatten(1).all(1)
    status = torch.where(end.running, Status.STEP_LIMIT, Status.DONE)
    status = torch.where(end.stuck, torch.where(finite, Status.UNDERFLOW, Status.NOT_FINITE), status)
    if watch is not None:
        status = torch.where(torch.isfinite(watch.s), Status.EVENT, status)
    return [Status(value) for value in status.tolist()]


def _reached(end: Carry, direction: Tensor, statuses: list[Status]) -> float:
    times = (end.s * direction).tolist()
    return min(time for time, status in zip(times, statuses, strict=True) if status in ERRORS)


def _message(statuses: list[Status], end: Carry, direction: Tensor, tally: Tally, request: Request) -> str:
    """What went wrong, in words; empty if nothing did."""
    failed = [place for place, status in enumerate(statuses) if status in ERRORS]
    if not failed:
        return ""
    times, sizes = (end.s * direction).tolist(), end.h.tolist()
    accepted, rejected = end.accepted.tolist(), end.rejected.tolist()
    shown = "; ".join(
        f"sample {b}: {statuses[b].name.lower().replace('_', ' ')} at t = {times[b]:.6g}, dt = {sizes[b]:.3g}, "
        f"{accepted[b]} steps accepted, {rejected[b]} rejected"
        for b in failed[:5]
    )
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    return (
        f"{len(failed)} of {len(statuses)} samples did not reach their last time after {tally.evaluations} evaluations "
        f"(max_steps = {request.max_steps}): {shown}{more}. An implicit method (batched=False) may help stiff samples; "
        "on_failure='return' gives what was solved"
    )
