"""The adjoint equation of a block, solved from the end of its span to the begin in the block's own clock."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamicblocks.controls import ControlledField, Controls, TimedField
from dynamicblocks.gradients.adjoint_equation import StoredSteps, adjoint_norm
from dynamicblocks.gradients.buffers import Buffers, KeptBuffers
from dynamicblocks.gradients.graph import (
    OutsideTransforms,
    autocast_of_now,
    each_once,
    separate_gradients,
    unlisted_leaves,
)
from dynamicblocks.integrators import Adaptive, Integrator, Tolerance, rms_norm
from dynamicblocks.integrators.half import HALF
from dynamicblocks.integrators.unsolved import where_not_finite
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Stops
from dynamicblocks.solving.failures import Circumstances, NotFiniteStateError, SolveError, explained
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

Norm = Callable[[Any], Any] | str | None


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
    node = _Node(block.apart(), back, norm, told, stored, autocast, inputs, states)
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

    def back(self, solve: "_Back", outputs: Mapping[int, "_Output"]) -> Tensor:
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
            system = _System(y, [self.controls.layers[index] for index in sorted(read)], solve)
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

    def _steps(self, integrator: Integrator, system: "_System", first: int, last: int, flat: Tensor) -> Tensor:
        """The state of the adjoint equation before the steps ``first, ..., last - 1``, the last one first."""
        carry: Any = flat
        for n in range(last - 1, first - 1, -1):
            stage, h = _BackStage(self.field.on_step(n), system), -float(self.course.size(n))
            if n == last - 1:
                carry = integrator.begin(stage, h, carry)
            elif integrator.restarts and self.field.jumps(n + 1):
                carry = integrator.restart(stage, h, carry)
            carry = integrator.advance(stage, h, carry)
        return integrator.finish(carry)

    def _check(self, solve: "_Back", y: Tensor, end: Tensor, _gradient: Tensor) -> None:
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

    def __init__(self, stage: Any, system: "_System") -> None:
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

    def back(self, solve: "_Back", outputs: Mapping[int, "_Output"]) -> Tensor:
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
            system = _System(y, self.timed.layers_near(t0 + (t1 - t0) / 2), solve)
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
        solve: "_Back",
        integrator: Adaptive,
        system: "_System",
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


class _Output(NamedTuple):
    """A state that was handed over, with its gradient."""

    state: Tensor
    gradient: Tensor


class _System:
    """The adjoint equation d/dt (y, a, *sums) as a function of one vector, by one evaluation and one pass back.

    Where y is known it is no part of it. States lie in memory as those of the forward pass do.

    Args:
        like: a state, as wide as the equation is solved.
        layers: that are read.
        solve: of which it is a part.
    """

    def __init__(self, like: Tensor, layers: Iterable[nn.Module], solve: "_Back") -> None:
        self.like, self._solve = like, solve
        self._weights = each_once([weight for layer in layers for weight in layer.parameters()])
        # Steps that are taken back may read controls that those of the forward pass do not.
        wanted = set(map(id, solve.node.inputs))
        self._params = params = [weight for weight in self._weights if id(weight) in wanted]
        solve.seen.update(map(id, params))
        self._order = sorted(range(like.dim()), key=lambda dim: -like.stride()[dim])
        self._back = sorted(range(like.dim()), key=lambda dim: self._order[dim])
        self._count = 1 if solve.node.stored is not None else 2
        parts = [like] * self._count + [torch.view_as_real(p) if p.is_complex() else p for p in params]
        self._sizes = [part.numel() for part in parts]
        self._shapes = [part.shape for part in parts[self._count :]]

    def joined(self, y: Tensor, a: Tensor) -> Tensor:
        """The vector at the end of an interval, where the sums of it are zero."""
        states = [y, a][2 - self._count :]
        return self._flat(states, [self.like.new_zeros(shape) for shape in self._shapes])

    def apart(self, flat: Tensor) -> list[Tensor]:
        """Its states and sums."""
        parts = torch.split(flat, self._sizes)
        shape = [self.like.shape[dim] for dim in self._order]
        states = [part.view(shape).permute(self._back) for part in parts[: self._count]]
        return states + [part.view(shape) for part, shape in zip(parts[self._count :], self._shapes, strict=True)]

    def taken(self, flat: Tensor, unit: float = 1.0) -> tuple[Tensor, Tensor]:
        """The states y and a at the begin of an interval; its sums are added to those of the pass."""
        parts = self.apart(flat)
        for param, total in zip(self._params, parts[self._count :], strict=True):
            self._solve.add(param, total * unit)
        return parts[0], parts[self._count - 1] * unit

    def _flat(self, states: Iterable[Tensor], sums: Iterable[Tensor]) -> Tensor:
        rows = [*(state.permute(self._order) for state in states), *sums]
        return torch.cat([row.to(self.like.dtype).reshape(-1) for row in rows])

    def __call__(self, slope: Callable[[Tensor], Tensor], flat: Tensor, known: Tensor | None = None) -> Tensor:
        """The slope of the vector, by that of the field as a function of y."""
        solve, params = self._solve, self._params
        # An implicit method differentiates the equation.
        twice = torch.is_grad_enabled() and flat.requires_grad
        with torch.enable_grad():
            y, a = (known, self.apart(flat)[0]) if known is not None else self.apart(flat)[:2]
            if not twice or known is not None:
                y = y.detach().requires_grad_()
            value = slope(y if solve.narrow is None else y.to(solve.narrow)).to(y.dtype)
            slopes = [value] if known is None else []
            if not value.requires_grad:
                zeros = [torch.zeros_like(y), *(y.new_zeros(shape) for shape in self._shapes)]
                return self._flat([*slopes, zeros[0]], zeros[1:])
            inputs = [y, *params]
            if solve.node.unlisted is not None:
                # A view has a graph, even if the slope is a parameter itself.
                lost = unlisted_leaves(value.view_as(value), [y, *self._weights])
                if lost:
                    told, solve.node.unlisted = solve.node.unlisted, None  # a warning is given once
                    told(lost)
            by_y, *by_params = (
                torch.autograd.grad(value, inputs, -a, create_graph=True, allow_unused=True)
                if twice
                else separate_gradients([value], inputs, [-a])
            )
            sums = []
            for param, by, shape in zip(params, by_params, self._shapes, strict=True):
                if by is None:
                    sums.append(y.new_zeros(shape))
                    continue
                solve.reached.add(id(param))
                sums.append(torch.view_as_real(by.resolve_conj()) if param.is_complex() else by)
            whole = self._flat([*slopes, torch.zeros_like(y) if by_y is None else by_y], sums)
        return whole if twice else whole.detach()


@dataclass
class _Node:
    """What both passes need and no gradient flows to.

    Args:
        block: with the weights, modes and buffers of the forward pass.
        back, norm: of the adjoint equation.
        unlisted: called with tensors that would lose their gradients.
        stored: the steps of the forward pass, if they are kept.
        autocast: that of the forward pass.
        inputs: parameters that have gradients.
        states: of output, but for the first; only till they are handed over.
    """

    block: _Block
    back: Integrator
    norm: Norm
    unlisted: Callable[[list[Tensor]], None] | None
    stored: StoredSteps | None
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    inputs: Sequence[Tensor]
    states: list[Tensor]


@dataclass
class _Back:
    """One pass back.

    Args:
        node: of the graph.
        narrow: the type of the states, where it is half precision, in which the equation is not solved.
        totals: the integrals that are the gradients of parameters, by ``id``.
        seen: parameters of layers that were evaluated.
        reached: those on which a slope depended.
        filled: what all gradients are, where no equation was solved.
    """

    node: _Node
    narrow: torch.dtype | None
    totals: dict[int, Tensor] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)
    filled: float | None = None

    def add(self, param: Tensor, total: Tensor) -> None:
        """Add to the integral of a parameter."""
        before = self.totals.get(id(param))
        self.totals[id(param)] = total if before is None else before + total

    def gradient(self, param: Tensor) -> Tensor | None:
        """That of a parameter; None where nothing depends on it."""
        if self.filled is not None:
            return torch.full_like(param, self.filled)
        if id(param) not in self.seen:
            # The forward pass reads its layer, but no stage of the pass back.
            return torch.zeros_like(param)
        if id(param) not in self.reached:
            return None
        total = self.totals[id(param)]
        return (torch.view_as_complex(total) if param.is_complex() else total).to(param.dtype)

    @contextlib.contextmanager
    def telling(self, t1: float, t0: float, y: Tensor) -> Iterator[None]:
        """Says of a failure that it was one of the adjoint solve, and where."""
        try:
            yield
        except SolveError as error:
            node = self.node
            stores = isinstance(node.back, Adaptive) and node.stored is None
            other = "Adjoint(interpolant=True) or 'checkpoint'" if stores else "'checkpoint'"
            raise type(error)(
                f"{node.block.title}, in the adjoint solve of the backward pass, from t = {t1:g} back to {t0:g}: "
                f"{explained(error, y, node.block.controls)} Where the state cannot be solved for back in time, use "
                f"gradient={other}",
                error.circumstances,
            ) from None


class _Adjoint(torch.autograd.Function):
    """The states that a forward pass found, and their gradients by the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, node: _Node, y0: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
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
        node: _Node = ctx.node
        # Also those that the block holds: PyTorch says whether any was changed since.
        states = ctx.saved_tensors[: len(by_states)]
        if all(each is None for each in by_states):
            return None, None, *[None] * len(node.inputs)
        narrow = ctx.kind if ctx.kind in HALF else None
        kind = ctx.kind if narrow is None else torch.float32
        with torch.no_grad(), node.autocast(), OutsideTransforms():
            # After the last state that has a gradient there is nothing to solve for.
            outputs = {
                place: _Output(state.detach().to(kind), by.to(kind))
                for place, (state, by) in enumerate(zip(states, by_states, strict=True))
                if by is not None
            }
            solve = _Back(node, narrow)
            by_y0 = node.block.back(solve, outputs)
            found = [solve.gradient(each) for each in node.inputs]
        return None, *differentiable_once((by_y0.to(ctx.kind), *found), by_y0, NO_SECOND)
