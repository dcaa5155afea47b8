"""The loop with steps as long as the error allows, one length for the whole state."""

import dataclasses
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from dynamicblocks.integrators import Embedded, Paired, Size, Tolerance, Trial
from dynamicblocks.integrators.integrator import Slope
from dynamicblocks.integrators.interpolant import Row, combine
from dynamicblocks.integrators.unsolved import where_not_finite
from dynamicblocks.solving.failures import (
    Circumstances,
    NotConvergedError,
    NotFiniteStateError,
    StepLimitError,
    StepUnderflowError,
    worst_entry,
)
from dynamicblocks.solving.field import Clock, Field
from dynamicblocks.solving.step_control import StepControl

Hook = Callable[[float, Tensor, float], object]


@dataclass(frozen=True)
class Stops:
    """Times that steps must meet.

    Args:
        kinks: where the field is not smooth; increasing, as the jumps are.
        jumps: where it jumps, so that the slope before is not the slope after.
        resume: whether the step after a jump may be as long as was planned before the one that the jump cut short;
            else it grows anew from the short one.
    """

    kinks: Sequence[float] = ()
    jumps: Sequence[float] = ()
    resume: bool = False

    def first_in(self, t: float, t1: float) -> tuple[float, bool] | None:
        """The first stop after ``t`` and up to ``t1``, and whether the field jumps there."""
        if not self.kinks and not self.jumps:
            return None
        # A step that happens to end at a jump needs the slope behind it, too.
        inside = [(_first(times, t, t1), jump) for times, jump in ((self.kinks, False), (self.jumps, True))]
        found = [(stop, jump) for stop, jump in inside if stop is not None]
        return min(found, key=lambda stop: abs(stop[0] - t)) if found else None

    def jumps_at(self, t: float) -> bool:
        """Whether the field jumps at a time."""
        if not self.jumps:
            return False
        place = bisect_left(self.jumps, t)
        return place < len(self.jumps) and self.jumps[place] == t


def _first(times: Sequence[float], t: float, t1: float) -> float | None:
    """The first of increasing times after ``t`` and up to ``t1``, which may be before it."""
    place = bisect_right(times, t) if t1 > t else bisect_left(times, t) - 1
    if not 0 <= place < len(times):
        return None
    time = times[place]
    return time if (time <= t1 if t1 > t else time >= t1) else None


@dataclass(frozen=True)
class Hooks:
    """Functions (t, y, h) with h > 0 that are called before a step, and after it was accepted or rejected."""

    step: Hook | None = None
    accept: Hook | None = None
    reject: Hook | None = None


@dataclass
class Step:
    """An accepted step, with what is needed to find the states on it.

    Args:
        t0, t1: its ends.
        y0: the state at its begin.
        trial: what the method found.
        method: has the interpolant.
        shift: a zero with the gradient of the first time, with which every step moves.
    """

    t0: float
    t1: float
    y0: Tensor
    trial: Trial
    method: Embedded
    shift: Tensor | None = None
    _parts: list[Tensor] | None = dataclasses.field(default=None, repr=False)

    @property
    def h(self) -> float:
        """Its length, negative where time runs back."""
        return self.t1 - self.t0

    @property
    def begin(self) -> float | Tensor:
        """Its begin, moving with the first time where that has a gradient."""
        return self.t0 if self.shift is None else self.shift + self.t0

    @property
    def y1(self) -> Tensor:
        """The state at its end."""
        return self.trial.y1

    def state(self, x: float | Tensor) -> Tensor:
        """The state at the fraction ``x`` of the step."""
        if not isinstance(x, Tensor) and x == 1:
            return self.y1
        return combine(self.method.weights(x), self.parts())

    def parts(self) -> list[Tensor]:
        """What the method's interpolant is a weighted sum of."""
        if self._parts is None:
            trial = self.trial
            # They are kept: a first look without gradients must not take them from a second.
            with torch.set_grad_enabled(trial.y1.requires_grad):
                self._parts = trial.parts(self.y0, self.h)
        return self._parts

    def weights(self, x: float | Tensor) -> Row:
        """The weights of the parts in the state at the fraction ``x``."""
        return self.method.weights(x)


@dataclass
class AdaptiveLoop:
    """A method that takes steps as long as the tolerance allows.

    Args:
        field: the right-hand side.
        clock: makes the times that it is given.
        method: estimates its own error.
        tolerance: of the error of a step.
        control: of the length of the steps.
        stops: times to be met.
        first_step: its length; None to choose it.
        max_steps: most steps, accepted or not; counted by ``taken``, which the caller may set back.
        hooks: called along the way.
        taken: steps so far, or since the caller set it back.
    """

    field: Field
    clock: Clock
    method: Embedded
    tolerance: Tolerance
    control: StepControl = dataclasses.field(default_factory=StepControl)
    stops: Stops = Stops()
    first_step: float | None = None
    max_steps: int = 1_000_000
    hooks: Hooks = Hooks()
    taken: int = 0

    def steps(self, t: float, y: Tensor, direction: float) -> Iterator[Step]:
        """The accepted steps from (t, y) on, without end; time runs up or down with the sign of ``direction``."""
        slope = self.field(self.clock.tensors([t])[0], y)
        size = self.first_step if self.first_step is not None else self.first_size(t, y, slope, direction)
        companion = y if isinstance(self.method, Paired) else None
        ratios: list[float] = []
        scaled: Tensor | None = None
        trial: Trial | None = None
        # Neither times nor lengths, which methods multiply by weights, may leave the range of the state's numbers.
        far, longest = self.clock.far, self.clock.far / 128
        was_rejected = False
        while True:
            size = self.control.clamp(size)
            if size > longest:
                size = longest
            length, t1 = size, t + direction * size
            if self.taken >= self.max_steps:
                self._limit(t, size, scaled)
            if t1 == t:
                self._underflow(t, size, y, slope, scaled, trial)
            self.taken += 1
            stop = self.stops.first_in(t, t1)
            if stop is not None:
                length, t1 = abs(stop[0] - t), stop[0]
            if not -far <= t1 <= far:
                self._end_of_time(t, size)
            h = t1 - t
            if self.hooks.step is not None:
                self.hooks.step(t, y, abs(h))
            trial = self.attempt(self.stage(t, t1), h, y, slope, companion)
            with torch.no_grad():
                scaled = trial.error / self.tolerance.scale(y, trial.y1)
                ratio = self.tolerance.ratio(scaled)
            if trial.unsolved is not None and trial.unsolved.finite:
                self.field.tally.not_converged += 1
            # What the controller remembers are accepted steps, and the newest.
            proposed = size
            size = self.control.next_size(
                length, [ratio, *ratios], self.method.error_order, accepted=ratio <= 1, was_rejected=was_rejected
            )
            was_rejected = not (ratio <= 1 or (length <= self.control.min_step and self._is_state(trial, ratio)))
            if not was_rejected:
                ratios = [ratio, *ratios[:1]]
                self.field.tally.accepted += 1
                if self.hooks.accept is not None:
                    self.hooks.accept(t, y, abs(h))
                if stop is not None and (self.stops.resume or not stop[1]):
                    # A step that was cut short for a time to be met says little against a longer one.
                    size = max(size, proposed)
                yield Step(t, t1, y, trial, self.method, self.clock.shift)
                t, y, slope, companion = t1, trial.y1, trial.end, trial.companion
                if stop is not None and stop[1]:
                    slope = self.field(self.clock.tensors([self.clock.after(t1, direction)])[0], y)
            else:
                self.field.tally.rejected += 1
                if self.hooks.reject is not None:
                    self.hooks.reject(t, y, abs(h))
                if not math.isfinite(ratio):
                    self._check_finite(t, y, slope)
                    if length <= self.control.min_step:
                        self._no_state(t, length, trial)

    def attempt(self, stage: Slope, h: Size, y: Tensor, slope: Tensor, companion: Tensor | None) -> Trial:
        """A step from the state, with its slope, and the second state of methods that lead two."""
        if companion is None:
            return self.method.attempt(stage, h, y, slope, self.tolerance)
        assert isinstance(self.method, Paired)
        return self.method.attempt_both(stage, h, y, companion, self.tolerance)

    def stage(self, t: float, t1: float) -> Callable[[float, Tensor], Tensor]:
        """The field on one step; at its ends it sees the times just inside, in case the field jumps there."""
        h = t1 - t
        fractions = self.method.fractions
        times = [self.clock.before(t1, h) if c == 1 else t + c * h for c in fractions]
        if self.stops.jumps_at(t):
            times = [self.clock.after(t, h) if c == 0 else time for c, time in zip(fractions, times, strict=True)]
        made = dict(zip(fractions, self.clock.tensors(times), strict=True))
        return lambda fraction, y: self.field(made[fraction], y)

    def first_size(self, t: float, y: Tensor, slope: Tensor, direction: float) -> float:
        """A first step whose error is about a hundredth of the tolerance (Hairer, Norsett and Wanner, II.4)."""
        with torch.no_grad():
            scale = self.tolerance.scale(y)
            d0, d1 = self.tolerance.ratio(y / scale), self.tolerance.ratio(slope / scale)
            h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
            if not math.isfinite(h0):
                self._check_finite(t, y, slope)
            (time,) = self.clock.tensors([t + direction * h0])
            other = self.field(time, torch.add(y, slope, alpha=direction * h0))
            d2 = self.tolerance.ratio((other - slope) / scale) / h0
        largest = max(d1, d2)
        h1 = max(1e-6, 1e-3 * h0) if largest <= 1e-15 else (0.01 / largest) ** (1 / self.method.error_order)
        return min(100 * h0, h1) if math.isfinite(h1) else h0

    def circumstances(self, t: float, h: float) -> Circumstances:
        """Where the solve stands."""
        return Circumstances(t, h, dataclasses.replace(self.field.tally))

    def _check_finite(self, t: float, y: Tensor, slope: Tensor) -> None:
        """Raise if no step can help: the state, or the slope at it, is not finite."""
        for what, tensor in (("the state", y), ("the slope func(t, y)", slope)):
            found = where_not_finite(tensor)
            if found:
                accepted = self.field.tally.accepted
                raise NotFiniteStateError(
                    f"non-finite values in {what} at t = {t:.9g}, after {accepted} accepted steps: {found}",
                    self.circumstances(t, math.nan),
                )

    @staticmethod
    def _is_state(trial: Trial, ratio: float) -> bool:
        """Whether a step has a state at its end, however large the error."""
        return math.isfinite(ratio) or (trial.unsolved is None and not where_not_finite(trial.y1))

    def _no_state(self, t: float, size: float, trial: Trial) -> NoReturn:
        """Raise, for even the shortest step cannot be made."""
        left, circumstances = trial.unsolved, self.circumstances(t, size)
        where = f"in a step of {size:.3g} from t = {t:.9g}, the shortest there is"
        if left is not None and left.finite:
            raise NotConvergedError(f"{where}: {left}", circumstances)
        found = where_not_finite(trial.y1) or where_not_finite(trial.error) if left is None else left
        raise NotFiniteStateError(f"non-finite values {where}: {found}", circumstances)

    def _limit(self, t: float, size: float, scaled: Tensor | None) -> NoReturn:
        tally = self.field.tally
        explicit = (
            ", or use an implicit method such as kvaerno5: an explicit one takes many small steps where the problem is "
            "stiff"
        )
        raise StepLimitError(
            f"max_num_steps exceeded: {self.max_steps} steps ({tally.accepted} accepted and {tally.rejected} rejected "
            f"in all, {tally.evaluations} evaluations) ended at t = {t:.9g} with dt = {size:.3g}.{_largest(scaled)} "
            f"Allow more steps (max_steps), or loosen the tolerances{'' if self.method.meets_outputs else explicit}",
            self.circumstances(t, size),
        )

    def _end_of_time(self, t: float, size: float) -> NoReturn:
        raise StepLimitError(
            f"no step can be made from t = {t:.9g}: with dt = {size:.3g} it would end beyond {self.clock.far:.3g}, the "
            f"largest time, after {self.field.tally.accepted} accepted steps, which have grown without bound",
            self.circumstances(t, size),
        )

    def _underflow(
        self, t: float, size: float, y: Tensor, slope: Tensor, scaled: Tensor | None, trial: Trial | None
    ) -> NoReturn:
        self._check_finite(t, y, slope)
        if trial is not None and scaled is not None and where_not_finite(scaled):
            self._no_state(t, size, trial)
        tally = self.field.tally
        raise StepUnderflowError(
            f"underflow in dt: a step of {size:.3g} from t = {t:.9g} does not change the time, after {tally.accepted} "
            f"accepted and {tally.rejected} rejected steps and {tally.evaluations} evaluations.{_largest(scaled)} "
            "The field may be singular or jump there (see the option jump_t), or the tolerances are below what the "
            f"precision of {y.dtype} can show",
            self.circumstances(t, size),
        )


def _largest(scaled: Tensor | None) -> str:
    return "" if scaled is None else f" Largest error: {worst_entry(scaled)}."
