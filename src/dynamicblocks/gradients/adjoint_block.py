"""The adjoint equation of a block, solved from the end of its span to the begin in the block's own clock."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.controls import ControlledField, Controls, TimedField
from dynamicblocks.counting import going_back
from dynamicblocks.gradients.adjoint_equation import StoredSteps, adjoint_norm
from dynamicblocks.gradients.adjoint_system import Back, Node, Norm, Output, System
from dynamicblocks.gradients.buffers import Buffers, KeptBuffers
from dynamicblocks.gradients.graph import (
    OutsideTransforms,
    autocast_of_now,
    each_once,
    unlisted_leaves,
)
from dynamicblocks.integrators import Adaptive, Integrator, Tolerance, rms_norm
from dynamicblocks.integrators.half import HALF
from dynamicblocks.integrators.unsolved import where_not_finite
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Stops
from dynamicblocks.solving.failures import Circumstances, NotFiniteStateError
from dynamicblocks.solving.field import Field, HostClock, Tally
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.solving.nesting import ONE_TENSOR
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.refusal import differentiable_once
from dynamicblocks.solving.step_control import StepControl
from dynamicblocks.tracing import untraced

NO_SECOND = (
    "gradient='adjoint' has no second derivatives; use gradient='backprop', or 'checkpoint' with an integrator on the "
    "grid, whose steps can be differentiated twice"
)


def run_in_block(
    course: GridCourse | AdaptiveCourse,
    y: Tensor,
    back: Integrator,
    norm: Norm,
    unlisted: Callable[[str, list[Tensor]], None] | None,
    *,
    interpolant: bool,
) -> Outputs:
    """The states that a course of a block wants, with gradients by the adjoint equation.

    Args:
        course: of the block.
        y: its first state.
        back: by what the adjoint equation is solved; on a grid, on that grid.
        norm: of the error of its steps.
        unlisted: called with the block in words and tensors that would lose their gradients.
        interpolant: whether the steps of an adaptive course are kept, and y read from them.
    """
    if not torch.is_grad_enabled():
        return course.follow(y)
    block = _of(course)
    inputs = each_once([weight for layer in block.layers_read() for weight in layer.parameters()])
    told = None if unlisted is None else partial(unlisted, block.title)
    if not (y.requires_grad or inputs):
        found = course.follow(y)
        if found.states[-1].requires_grad and told is not None:
            told(unlisted_leaves(found.states[-1], []))
        return Outputs([state.detach() for state in found.states])
    autocast = autocast_of_now(y.device.type)
    stored = StoredSteps(1.0) if interpolant else None
    if isinstance(course, AdaptiveCourse):
        course = replace(course, kept=stored)
    with torch.no_grad(), autocast():
        states = course.follow(y.detach()).states
    states = [state.clone() for state in states[1:]] if isinstance(states, Tensor) else list(states[1:])
    node = Node(block.apart(), back, norm, told, stored, autocast, inputs, states)
    with OutsideTransforms():
        return Outputs([y, *_Adjoint.apply(node, y, *inputs)])  # type: ignore[no-untyped-call]


class _OnGrid:
    """A block whose steps are those of its grid.

    Args:
        course: its steps.
    """

    def __init__(self, course: GridCourse) -> None:
        assert isinstance(course.field, ControlledField)
        self.course, self.field, self.controls = course, course.field, course.field.controls
        self.title = _title(self.controls, course.points, course.integrator.shorthand)

    def layers_read(self) -> Sequence[nn.Module]:
        """Those that the forward pass reads."""
        return self.course.modules_read(0, self.course.steps)

    def apart(self) -> "_OnGrid":
        """The same with the weights, modes and copies of the buffers of now."""
        other = object.__new__(_OnGrid)
        copies = KeptBuffers(Buffers(self.controls.layers)).by_place()
        other.course, other.title = self.course, self.title
        other.field = replace(self.field.apart(copies), tally=None, lenders={})
        other.controls = other.field.controls
        return other

    def back(self, solve: "Back", outputs: Mapping[int, "Output"]) -> Tensor:
        """The gradient of the first state."""
        course, integrator = self.course, solve.node.back
        at = {place + 1 if course.all_times else course.steps: output for place, output in outputs.items()}
        last = max(at)
        y, a = at[last]
        while last > 0:
            # Steps that read the same controls, up to the next time at which the adjoint jumps.
            read, first = self._reads(last - 1, integrator), last - 1
            while first > 0 and first not in at and self._reads(first - 1, integrator) == read:
                first -= 1
            system = System(y, [self.controls.layers[index] for index in sorted(read)], solve)
            with solve.telling(course.points[last], course.points[first], y):
                flat = self._steps(integrator, system, first, last, system.joined(y, a))
            y, a = system.taken(flat)
            if not first:
                self._check(solve, y, *at[max(at)])
            elif first in at:
                y, a = at[first].state, a + at[first].gradient
            last = first
        return a

    def _reads(self, step: int, integrator: Integrator) -> set[int]:
        return self.field.controls_read([step], [(1 - c, part) for c, part in integrator.reads])

    def _steps(self, integrator: Integrator, system: "System", first: int, last: int, flat: Tensor) -> Tensor:
        """The state of the adjoint equation before the steps ``first, ..., last - 1``, the last one first."""
        carry: Any = flat
        for n in range(last - 1, first - 1, -1):
            stage, h = _BackStage(self.field.on_step(n), system), -float(self.course.size(n))
            if n == last - 1:
                carry = integrator.begin(stage, h, carry)
            elif integrator.restarts and self.field.jumps(n + 1, integrator.restart_derivatives):
                carry = integrator.restart(stage, h, carry)
            carry = integrator.advance(stage, h, carry)
        return integrator.finish(carry)

    def _check(self, solve: "Back", y: Tensor, end: Tensor, _gradient: Tensor) -> None:
        """Raise a NotFiniteStateError where y came back as no number: one value is read from the device.

        Gradients that are no numbers are handed on, as by other modes: of a loss that was scaled they may be.
        """
        if bool(torch.isfinite(y).all()) or not bool(torch.isfinite(end).all()):
            return
        t1, t0 = self.course.points[-1], self.course.points[0]
        with solve.telling(t1, t0, end):
            raise NotFiniteStateError(
                f"non-finite values in the state at t = {t0:.9g}: {where_not_finite(y)}",
                Circumstances(t0, math.nan, Tally()),
            )


class _BackStage:
    """The adjoint equation on one step of a grid, taken from its end to its begin.

    Args:
        stage: of the field.
        system: the equation.
    """

    def __init__(self, stage: Any, system: "System") -> None:
        self._stage, self._system = stage, system
        # Told of equations that were not solved.
        self.unsolved = stage.unsolved

    def __call__(self, c: float, flat: Tensor) -> Tensor:
        return self._system(partial(self._stage, 1 - c), flat)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        raise AssertionError(name)  # the integrator reads the field alone


class _InSpan:
    """A block whose integrator chooses its steps.

    Args:
        course: its solve.
    """

    def __init__(self, course: AdaptiveCourse) -> None:
        assert isinstance(course.problem.func, TimedField)
        self.course, self.timed, self.controls = course, course.problem.func, course.problem.func.controls
        self.title = _title(self.controls, self.timed.times, course.name)

    def layers_read(self) -> Sequence[nn.Module]:
        """Those that the forward pass reads."""
        return [self.controls.layers[index] for index in sorted(self.timed.controls_read())]

    def apart(self) -> "_InSpan":
        """The same with the weights, modes and copies of the buffers of now."""
        other = object.__new__(_InSpan)
        other.course, other.title = self.course, self.title
        other.timed = self.timed.apart(KeptBuffers(Buffers(self.controls.layers)).by_place())
        other.controls = other.timed.controls
        return other

    def back(self, solve: "Back", outputs: Mapping[int, "Output"]) -> Tensor:
        """The gradient of the first state."""
        times, integrator = self.course.problem.times, solve.node.back
        assert isinstance(integrator, Adaptive)
        at = {times[place + 1]: output for place, output in outputs.items()}
        last = max(at)
        y, a = at[last]
        # The equation of a is linear, and the tolerances are for numbers about as large as one.
        unit = max(float(rms_norm(output.gradient)) for output in at.values())
        if not math.isfinite(unit):
            # Of a loss that was scaled too far, which whoever scales it will see by the gradients.
            solve.filled = math.nan
            return torch.full_like(a, math.nan)
        unit = unit or 1.0
        stops = {stop for both in self.timed.stops() for stop in both if times[0] < stop < last}
        seen, first, tally = Field(self.timed, explains=False), integrator.first_step, Tally()
        for t1, t0 in pairwise(sorted({times[0], *stops, *at}, reverse=True)):
            system = System(y, self.timed.layers_near(t0 + (t1 - t0) / 2), solve)
            loop = self._loop(solve, integrator, system, seen, (t1, t0), first, tally)
            with solve.telling(t1, t0, y):
                lengths, flat = [], system.joined(y, a / unit)
                for step in loop.steps(t1, flat, -1.0):
                    lengths.append(abs(step.h))
                    flat = step.y1
                    if step.t1 == t0:
                        break
            first = max(lengths)
            y, a = system.taken(flat, unit)
            if t0 in at:
                y, a = at[t0].state, a + at[t0].gradient
        return a

    def _loop(
        self,
        solve: "Back",
        integrator: Adaptive,
        system: "System",
        seen: Field,
        ends: tuple[float, float],
        first: float | None,
        tally: Tally,
    ) -> AdaptiveLoop:
        """The steps from the later end of an interval between knots to the earlier one."""
        t1, t0 = ends
        # The field is that of the interval, at its later end as well.
        latest, stored = math.nextafter(t1, -math.inf), solve.node.stored

        def slope(t: Tensor, flat: Tensor) -> Tensor:
            time = t.new_tensor(min(float(t), latest))
            return system(lambda y: seen(time, y), flat, None if stored is None else stored.at(float(time)))

        equation = Field(slope, explains=False)
        equation.tally = tally
        clock = HostClock(system.like, torch.tensor(t1, dtype=torch.float64))
        measure = adjoint_norm(solve.node.norm, None, ONE_TENSOR, interpolant=stored is not None)
        tolerance = integrator.tolerance
        if self.timed.narrow is not None:
            tolerance = tolerance.at_least(torch.finfo(self.timed.narrow).eps)
        return AdaptiveLoop(
            equation,
            clock,
            integrator.embedded,
            Tolerance(tolerance.rtol, tolerance.atol, lambda flat: measure((flat.new_zeros(()), *system.apart(flat)))),
            StepControl.of(integrator),
            Stops([t0]),
            first,
            integrator.max_steps,
            taken=tally.accepted + tally.rejected,
        )


_Block = _OnGrid | _InSpan


def _of(course: GridCourse | AdaptiveCourse) -> _Block:
    return _InSpan(course) if isinstance(course, AdaptiveCourse) else _OnGrid(course)


def _title(controls: Controls, times: Sequence[float], integrator: str) -> str:
    name = f"{controls.basis.name}({len(controls)}) x {type(controls.layers[0]).__name__}"
    return f"DynamicBlock {name} on [{times[0]:g}, {times[-1]:g}] with {integrator}"


class _Adjoint(torch.autograd.Function):
    """The states that a forward pass found, and their gradients by the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, node: Node, y0: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.node = node
        ctx.set_materialize_grads(False)
        states, node.states = tuple(node.states), []
        # One state may be changed in place by what follows the block; several are copied into a trajectory.
        ctx.save_for_backward(*(state.clone() if len(states) == 1 else state for state in states), *inputs)
        ctx.kind = y0.dtype
        return states

    @staticmethod
    @untraced
    def backward(ctx: Any, *by_states: Tensor | None) -> tuple[Tensor | None, ...]:
        node: Node = ctx.node
        # Also those that the block holds: PyTorch says whether any was changed since.
        states = ctx.saved_tensors[: len(by_states)]
        if all(each is None for each in by_states):
            return None, None, *[None] * len(node.inputs)
        narrow = ctx.kind if ctx.kind in HALF else None
        kind = ctx.kind if narrow is None else torch.float32
        with torch.no_grad(), node.autocast(), OutsideTransforms():
            # After the last state that has a gradient there is nothing to solve for.
            outputs = {
                place: Output(state.detach().to(kind), by.to(kind))
                for place, (state, by) in enumerate(zip(states, by_states, strict=True))
                if by is not None
            }
            solve = Back(node, narrow)
            with going_back(solve):
                by_y0 = node.block.back(solve, outputs)
            found = [solve.gradient(each) for each in node.inputs]
        return None, *differentiable_once((by_y0.to(ctx.kind), *found), by_y0, NO_SECOND)
