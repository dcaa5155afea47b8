"""Solves with steps of their own for each sample, in the loop of tensors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.integrators import AdaptiveMethod, Pair, Tolerance
from dynamicblocks.solving import options as opt
from dynamicblocks.solving.batched_events import EventWatch
from dynamicblocks.solving.batched_loop import (
    BatchedLoop,
    BatchedOutputs,
    Carry,
    Record,
    Summary,
    rows_norm,
    run_loop,
    start,
)
from dynamicblocks.solving.compiled_loop import CompiledLoop
from dynamicblocks.solving.dense import BatchDense
from dynamicblocks.solving.events import checked_value
from dynamicblocks.solving.failures import Circumstances, NotFiniteStateError, StepLimitError, StepUnderflowError
from dynamicblocks.solving.field import Field, Tally, unchanging
from dynamicblocks.solving.misuse import check_order
from dynamicblocks.solving.nesting import Nesting, leaves, rebuilt
from dynamicblocks.solving.problem import check_times
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.solution import Solution, Statistics
from dynamicblocks.solving.status import Status
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.transforms import refuse_forward_mode

ERRORS = {error.status: error for error in (StepLimitError, StepUnderflowError, NotFiniteStateError)}


@dataclass(frozen=True)
class SampleProblem:
    """An initial value problem of a batch of samples, and how it is solved.

    Args:
        func: the right-hand side (t, y, *args).
        y0: the state, the samples first.
        t: the times, shape (T,) or (B, T).
        args: handed on to ``func`` and ``event_fn``.
        scheme: by what it is solved.
        event_fn: ends each sample where it changes its sign.
        dense: whether all steps are kept.
        max_steps: most steps of a sample.
        return_failures: whether failures are part of the solution.
        compile: whether the loop is compiled.
        key: what compiled loops are kept for: the function of the caller, where ``func`` is made of it.
        role: how it is made of it.
    """

    func: Callable[..., Any]
    y0: Any
    t: Tensor
    args: tuple[Any, ...]
    scheme: Scheme
    max_steps: int
    key: Any
    event_fn: Callable[..., Tensor] | None = None
    dense: bool = False
    return_failures: bool = False
    compile: bool = False
    role: str = "solve"

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the method."""
        return self.scheme.options

    def pair(self) -> Pair:
        """The method, or a ConfigurationError for one that the loop of tensors cannot run."""
        method = self.scheme.method
        pair = method.make(**method.chosen(self.options)) if isinstance(method, AdaptiveMethod) else None
        if not isinstance(pair, Pair):
            what = "a compiled loop" if self.compile else "batched=True"
            raise ConfigurationError(f"{what} needs an explicit adaptive method such as dopri5, got {method.name}")
        return pair


def solve_batched(problem: SampleProblem) -> Solution:
    """The solution of a problem, sample by sample in one loop."""
    pair = problem.pair()
    refuse_forward_mode("a compiled loop" if problem.compile else "batched=True")
    nesting = Nesting.of(problem.y0, 1)
    y0 = nesting.flat(problem.y0)
    if y0 is problem.y0:
        # The caller's tensor is neither changed by a solve nor part of its result.
        y0 = y0.clone()
    check_order(problem.key)
    t = _times(problem.t, len(y0), y0.device)
    if not len(y0):
        return _of_nobody(problem, nesting, y0, t.shape[1])
    direction = torch.sign(t[:, -1] - t[:, 0]).detach()
    s = (t * direction[:, None]).detach()
    field = Field(nesting.func(problem.func, problem.args), timed=True, owner=problem.key, seen=nesting.seen)
    longest = float((s[:, -1] - s[:, 0]).max())
    loop = _loop(problem, nesting, pair, field, y0, direction, longest)
    outputs = BatchedOutputs(s, y0, pair)
    watch = _watch(problem, nesting, loop)
    records: list[Record] = []

    compiled = _compiled(problem, nesting, loop, watch, field.tally) if problem.compile else None
    first_step = _first_step(problem)
    begin = start(s[:, 0], y0, lambda s, y: (compiled or loop).begin(s, y, first_step))
    if watch is not None:
        begin = watch.begin(begin)

    def attempts(carry: Carry, end: Tensor, s: Tensor, passed: Tensor, ahead: int) -> tuple[Carry, Record, Summary]:
        if compiled is None:
            carry, record, found = loop.attempts(carry, end, s, passed, 1)
        else:
            carry, record, found = compiled.attempts(carry, end, s, passed, ahead)
        if problem.dense:
            records.append(record)
        return carry, record, found

    end = run_loop(begin, s[:, -1], outputs, attempts, problem.max_steps, watch)
    if field.late is not None:
        field.late()
    statuses = _statuses(end, watch)
    y = outputs.states()
    tally = field.tally
    tally.accepted, tally.rejected = int(end.accepted.sum()), int(end.rejected.sum())
    message = _message(statuses, end, direction, tally, problem)
    if watch is not None and bool(watch.lost.any()):
        message += f"; event_fn was not a number (NaN) at the samples {watch.lost.nonzero()[:5, 0].tolist()}"
    if message and not problem.return_failures:
        worst = next(status for status in ERRORS if status in statuses)
        raise ERRORS[worst](
            message, Circumstances(_reached(end, direction, statuses), math.nan, tally, t.tolist(), list(y.unbind()))
        )
    event_t = event_y = None
    if watch is not None:
        event_t, flat = watch.result(end)
        event_y = nesting.nested(torch.where(loop.wide(torch.isfinite(event_t), flat), flat, math.nan))
    interpolant = None
    if problem.dense:
        dense = BatchDense(records, s[:, 0], end.s, direction, pair)

        def interpolant(at: Tensor | float) -> Any:
            states = dense(at)
            return nesting.nested(states, (len(states),))

    return Solution(
        problem.t,
        nesting.nested(y, (len(y),)),
        statuses,
        Statistics(tally.evaluations, end.accepted, end.rejected, None if problem.compile else tally.seconds),
        interpolant,
        event_t,
        event_y,
        message,
    )


def _of_nobody(problem: SampleProblem, nesting: Nesting, y0: Tensor, times: int) -> Solution:
    """The solution for no samples."""
    if problem.dense or problem.event_fn is not None:
        raise ConfigurationError("y0 has no samples, so there are no dense solutions and no events")
    none = torch.zeros(0, dtype=torch.int64, device=y0.device)
    y = y0.expand(times, *y0.shape)
    return Solution(problem.t, nesting.nested(y, (times,)), [], Statistics(0, none, none, 0.0))


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


def _compiled(
    problem: SampleProblem, nesting: Nesting, loop: BatchedLoop, watch: EventWatch | None, tally: Tally
) -> CompiledLoop:
    """The loop, to be compiled."""
    func = problem.func
    layout = repr(rebuilt(problem.y0, iter(nesting.shapes)))
    key = (loop.method.name, loop.control, problem.options.get("norm"), loop.jumps, layout, problem.role)
    return CompiledLoop(
        loop,
        tally,
        problem.key,
        key,
        lambda args: unchanging(nesting.func(func, args)),
        problem.args,
        single=watch is not None,
    )


def _loop(
    problem: SampleProblem, nesting: Nesting, pair: Pair, field: Field, y0: Tensor, direction: Tensor, longest: float
) -> BatchedLoop:
    options, scheme = problem.options, problem.scheme
    settings = scheme.settings
    stops = opt.make_stops(options)
    both = sorted([*stops.kinks, *stops.jumps])
    places = None
    if both:
        places = torch.tensor(both, dtype=direction.dtype, device=direction.device)[None] * direction[:, None]
    control = opt.make_control(options) if settings is None else StepControl.of(settings)
    if control.max_step < math.inf:
        opt.watch_steps(field, longest, control.max_step)
    rtol, atol = scheme.tolerances
    return BatchedLoop(
        field,
        pair,
        Tolerance(*opt.tolerances(nesting, y0, rtol, atol, nesting.eps), _norm(options, nesting)),
        control,
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


def _first_step(problem: SampleProblem) -> float | None:
    settings = problem.scheme.settings
    first = problem.options.get("first_step") if settings is None else settings.first_step
    return None if first is None else abs(float(first))


def _watch(problem: SampleProblem, nesting: Nesting, loop: BatchedLoop) -> EventWatch | None:
    function = problem.event_fn
    if function is None:
        return None

    def event(t: Tensor, y: Tensor) -> Tensor:
        value = checked_value(function(t.to(nesting.time_kind), nesting.nested(y.clone()), *problem.args))
        if value.numel() != len(y) and (value.ndim < 2 or len(value) != len(y)):
            raise ConfigurationError(
                f"event_fn must return one number for each sample, shape ({len(y)},), or one for each of its events, "
                f"shape ({len(y)}, K); got shape {tuple(value.shape)}"
            )
        return value.reshape(len(y), -1)

    atol = loop.tolerance.atol
    accuracy = float(atol.min()) if isinstance(atol, Tensor) else atol
    return EventWatch(loop, event, max(accuracy, 1e-12))


def _statuses(end: Carry, watch: EventWatch | None) -> list[Status]:
    found = torch.isfinite(end.y).reshape(len(end.y), math.prod(end.y.shape[1:]))
    there = found.all(1)
    lost = end.lost | ~torch.isfinite(end.slope).reshape(found.shape).all(1)
    status = torch.where(end.running, Status.STEP_LIMIT, Status.DONE)
    status = torch.where(end.stuck, torch.where(lost, Status.NOT_FINITE, Status.UNDERFLOW), status)
    status = torch.where(there | end.running, status, Status.NOT_FINITE)
    if watch is not None:
        status = torch.where(torch.isfinite(watch.s), Status.EVENT, status)
        status = torch.where(watch.lost, Status.NOT_FINITE, status)
    return [Status(value) for value in status.tolist()]


def _reached(end: Carry, direction: Tensor, statuses: list[Status]) -> float:
    times = (end.s * direction).tolist()
    return min(time for time, status in zip(times, statuses, strict=True) if status in ERRORS)


def _message(statuses: list[Status], end: Carry, direction: Tensor, tally: Tally, problem: SampleProblem) -> str:
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
        f"(max_steps = {problem.max_steps}): {shown}{more}. An implicit method (batched=False) may help stiff samples; "
        "on_failure='return' gives what was solved"
    )
