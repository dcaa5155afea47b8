"""The step of a block, compiled: one program for all steps of the same structure, and a loop that calls it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynamicblocks.controls import ControlledField, ControlledStage, Terms
from dynamicblocks.controls.basis import is_one_control
from dynamicblocks.controls.blending import Mix, blended_parameters, call_blended
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Checkpoint, Gradient, Reversible
from dynamicblocks.integrators import Carry, Integrator, Reads, Size, Stage
from dynamicblocks.layers.parts import FIELD, PROJECTION, called
from dynamicblocks.layers.stand_in import StandIn
from dynamicblocks.solving.compiled_loop import tracing_may_look_at_grad
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.transforms import transformed

Enters = Literal["", "begin", "begin_after", "restart"]


@dataclass(frozen=True)
class Read:
    """Which of a step's layers are read at one place, and where their weights stand among the numbers of the step.

    Args:
        layers: places among the layers of the step.
        first: place of the first weight; None where a layer is called as it is.
        negative: whether a weight is negative.
    """

    layers: tuple[int, ...]
    first: int | None
    negative: bool


@dataclass(frozen=True)
class StepStructure:
    """What steps have in common that share a program: everything but tensors.

    Args:
        reads: for each fraction of the step and part of the layer.
        methods: for each part the method of the layer, the submodule that holds its weights, if it is not the layer
            itself, and whether it takes the time.
        projects: whether the step ends with the projection.
        enters: whether a carry is made before it, at the first step, or made anew, after a jump. For ``begin_after``
            what comes in is the state and the one before it.
    """

    reads: tuple[tuple[tuple[float, str], Read], ...]
    methods: tuple[tuple[str, tuple[str, str, bool]], ...]
    projects: bool
    enters: Enters

    def run(self, integrator: Integrator, layers: tuple[nn.Module, ...], numbers: Tensor, carry: Carry) -> Carry:
        """The carry one step later; the numbers are the begin and the size of the step, and weights."""
        start, size, *weights = numbers.unbind()
        return self.step(integrator, CompiledStage(self, layers, start, size, weights), size, carry)

    def step(self, integrator: Integrator, stage: Stage, h: Size, carry: Carry) -> Carry:
        """All that belongs to a step."""
        if self.enters == "begin_after":
            carry = integrator.begin_after(stage, h, *carry)
        elif self.enters:
            carry = (integrator.begin if self.enters == "begin" else integrator.restart)(stage, h, carry)
        carry = integrator.advance(stage, h, carry)
        return integrator.amend(carry, partial(stage.part, PROJECTION, 1.0)) if self.projects else carry


class CompiledStage:
    """The layers of a structure on one step, whose begin, size and weights of blends are tensors."""

    def __init__(
        self,
        structure: StepStructure,
        layers: tuple[nn.Module, ...],
        start: Tensor,
        size: Tensor,
        weights: list[Tensor],
    ) -> None:
        self._layers, self._start, self._size, self._weights = layers, start, size, weights
        self._reads, self._methods = dict(structure.reads), dict(structure.methods)
        self._blended: dict[tuple[float, str], dict[str, Tensor]] = {}

    def __call__(self, c: float, y: Tensor) -> Tensor:
        return self.part(FIELD, c, y)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """A part of the layer at the fraction c."""
        read, (method, holder, timed) = self._reads[c, name], self._methods[name]
        # A layer may change its input in place; where it does not, the compiler leaves the copy out.
        y = y.clone()
        arguments = (self._start + c * self._size, y, *extra) if timed else (y, *extra)
        layers = [self._layers[index] for index in read.layers]
        if read.first is None:
            output = called(layers[0], method)(*arguments)
        else:
            holders = [getattr(layer, holder) for layer in layers] if holder else layers
            mix = Mix(self._weights[read.first : read.first + len(holders)], 0, read.negative)
            if (c, holder) not in self._blended:
                self._blended[c, holder] = blended_parameters(holders, mix.weights)
            way = "forward" if holder else method
            output = call_blended(holders, mix, self._blended[c, holder], arguments, method=way)
        if name == PROJECTION:
            return output
        if name == FIELD and output.shape != y.shape:
            raise ConfigurationError("a layer must keep the shape of the state")
        # The size is a tensor: in half precision its product with the slope would be rounded.
        return output.to(y.dtype)


@dataclass(frozen=True)
class StepPlan:
    """One step of a grid: its structure, the controls it reads, and its numbers."""

    structure: StepStructure
    controls: tuple[int, ...]
    numbers: tuple[float, ...]


def plan_step(field: ControlledField, integrator: Integrator, step: int) -> StepPlan:
    """The plan of a step of a block's grid."""
    controls = field.controls
    start, end = field.alignment.grid.points[step : step + 2]
    places = dict.fromkeys(integrator.reads)
    projects = GridCourse(field, integrator, field.alignment.grid.points).projects
    if projects:
        places[1.0, PROJECTION] = None
    terms = {place: field.terms(step, place[0]) for place in places}
    read = tuple(dict.fromkeys(index for each in terms.values() for index, _ in each))
    numbers = [start, end - start]
    reads = tuple((place, _read(each, read, numbers)) for place, each in terms.items())
    parts = dict.fromkeys(part for _, part in places)
    methods = tuple((part, (controls.parts[part], controls.holder[part], controls.timed[part])) for part in parts)
    enters: Enters = ""
    if step == 0 and integrator.takes_past:
        enters = "begin_after"
    elif step == 0 and integrator.begins:
        enters = "begin"
    elif step and integrator.restarts and field.jumps(step, integrator.restart_derivatives):
        enters = "restart"
    return StepPlan(StepStructure(reads, methods, projects, enters), read, tuple(numbers))


def _read(terms: Terms, controls: tuple[int, ...], numbers: list[float]) -> Read:
    layers = tuple(controls.index(index) for index, _ in terms)
    if is_one_control(terms):
        return Read(layers, None, False)
    first = len(numbers) - 2  # behind the begin and the size of the step
    numbers += [weight for _, weight in terms]
    return Read(layers, first, min(weight for _, weight in terms) < 0.0)


class StepPrograms:
    """The programs of a block, made when they are first called. Copies of a block make their own."""

    backend = "inductor"

    def __init__(self) -> None:
        self.failed = False
        self._programs: dict[StepStructure, Callable[..., Any]] = {}
        self._numbers: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        self._plans: list[StepPlan] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return StepPrograms, ()

    def __len__(self) -> int:
        return len(self._programs)

    def plans(self, field: ControlledField, integrator: Integrator) -> list[StepPlan]:
        """Those of all steps."""
        if self._plans is None:
            self._plans = [plan_step(field, integrator, step) for step in range(field.alignment.grid.steps)]
        return self._plans

    def numbers(self, plans: list[StepPlan], like: Tensor) -> list[Tensor]:
        """The numbers of all steps on the device of the state, in single precision at least."""
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (like.device, kind)
        if key not in self._numbers:
            # Made once: no copy from the host lies between two steps of a later pass.
            with torch.inference_mode(False):
                self._numbers[key] = [torch.tensor(plan.numbers, dtype=kind, device=like.device) for plan in plans]
        return self._numbers[key]

    def program(self, structure: StepStructure, integrator: Integrator) -> Callable[..., Any]:
        """The compiled step of a structure with the block's integrator."""
        if structure not in self._programs:
            step = _step_of(structure, integrator)
            self._programs[structure] = torch.compile(step, fullgraph=True, backend=self.backend)
        return self._programs[structure]


_numbered = count()


def _step_of(structure: StepStructure, integrator: Integrator) -> Callable[..., Carry]:
    """A function of its own: the compiler counts programs, up to a limit, for each code object."""

    def step(layers: tuple[nn.Module, ...], numbers: Tensor, carry: Carry) -> Carry:
        return structure.run(integrator, layers, numbers, carry)

    code = step.__code__.replace(co_name=f"step_{next(_numbered)}")
    return FunctionType(code, step.__globals__, code.co_name, None, step.__closure__)


class CompiledSteps(Integrator):
    """An integrator whose steps, with what comes before and after them, are calls of compiled programs.

    A carry that is made, or made anew, is made in the program of its step: what runs beside a program would find
    statistics changed that it kept for its backward pass.

    Args:
        inner: the integrator of the block.
        field: of the block, along its grid.
        programs: of the block.
        title: of the block, for the warning that it was not compiled.
    """

    def __init__(self, inner: Integrator, field: ControlledField, programs: StepPrograms, title: str) -> None:
        self._inner, self._field, self._programs, self._title = inner, field, programs, title
        self.takes_past = inner.takes_past

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def order(self) -> int:
        return self._inner.order

    @property
    def reads(self) -> Reads:
        # Of the projection, too, so that the loop leaves it alone.
        return (*self._inner.reads, (1.0, PROJECTION))

    def begin_after(self, stage: Stage, h: Size, y: Tensor, before: Tensor) -> Carry:
        return y, before

    def finish(self, carry: Carry) -> Tensor:
        return self._inner.finish(carry)

    def advance(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        assert isinstance(stage, ControlledStage)
        programs = self._programs
        plans = programs.plans(self._field, self._inner)
        plan = plans[stage.step]
        # A block inside a layer that is blended itself: a program for each stand-in would be one for each call.
        inside = isinstance(self._field.controls, StandIn)
        if not (programs.failed or inside or torch.compiler.is_compiling() or transformed()):
            begun = carry[0] if self.takes_past else carry
            numbers = programs.numbers(plans, self.finish(carry) if stage.step else begun)[stage.step]
            layers = tuple(self._field.controls.layers[index] for index in plan.controls)
            try:
                with tracing_may_look_at_grad():
                    return programs.program(plan.structure, self._inner)(layers, numbers, carry)
            except Exception as error:
                # A state that the layers cannot take is an error here, too, and no fault of the program's.
                after = plan.structure.step(self._inner, stage, h, carry)
                programs.failed = True
                lines = f"{type(error).__name__}: {error}".splitlines()
                warnings.warn(f"{self._title} was not compiled and runs as usual: {lines[0]:.300}", stacklevel=9)
                return after
        return plan.structure.step(self._inner, stage, h, carry)


def check_compilable(integrator: Integrator, gradient: Gradient) -> None:
    """Raise a ConfigurationError for steps that depend on values, or that are run again from outside their program."""
    if not integrator.fixed_cost:
        raise ConfigurationError(
            f"compile=True compiles steps of a fixed cost, but those of {integrator.name} depend on the state; leave "
            "compile out, or take an explicit integrator on the grid, such as 'rk4'"
        )
    if not gradient.of_steps:
        raise ConfigurationError(
            f"compile=True and {gradient!r} do not go together: the pass back evaluates layers with copies of their "
            "buffers, not the compiled step. Leave compile out, or use gradient='backprop'"
        )
    if isinstance(gradient, (Checkpoint, Reversible)):
        mode, around = "checkpoint", "where both runs are one graph"
        if isinstance(gradient, Reversible):
            mode, around = "reversible", "between whose graphs such a block runs as it is"
        raise ConfigurationError(
            f"compile=True and gradient={mode!r} do not go together: a second run of a compiled step need not keep the "
            f"tensors of the first. Compile the whole network with torch.compile, {around}, or use gradient='backprop'"
        )
