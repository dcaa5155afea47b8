"""The step of a block, compiled: one program for all steps of the same structure, and a loop that calls it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.controls import ControlledField, Terms
from dynamicblocks.controls.basis import is_one_control
from dynamicblocks.controls.blending import Mix, blended_parameters, call_blended
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Checkpoint, Gradient
from dynamicblocks.integrators import Carry, Integrator
from dynamicblocks.marching import FixedMarch


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
class Structure:
    """What steps have in common that share a program: everything but tensors.

    Args:
        integrator: of the block.
        reads: at each fraction of the step.
        projection: at its end, if the layer has one.
        takes_time: whether layers take the time.
    """

    integrator: Integrator
    reads: tuple[tuple[float, Read], ...]
    projection: Read | None
    takes_time: bool

    def run(self, layers: tuple[nn.Module, ...], numbers: Tensor, carry: Carry) -> Carry:
        """The carry one step later; the numbers are the begin and the size of the step, and weights."""
        start, size, *weights = numbers.unbind()
        reads, blended = dict(self.reads), {}

        def called(read: Read, parts: list[nn.Module], arguments: tuple[Tensor, ...], key: object) -> Tensor:
            if read.first is None:
                return parts[0](*arguments)
            mix = Mix(weights[read.first : read.first + len(parts)], 0, read.negative)
            if key not in blended:
                blended[key] = blended_parameters(parts, mix.weights)
            return call_blended(parts, mix, blended[key], arguments)

        def stage(fraction: float, y: Tensor) -> Tensor:
            read = reads[fraction]
            arguments = (start + fraction * size, y) if self.takes_time else (y,)
            slope = called(read, [layers[index] for index in read.layers], arguments, fraction)
            if slope.shape != y.shape:
                raise ConfigurationError("a layer must keep the shape of the state")
            # The size is a tensor: in half precision its product with the slope would be rounded.
            return slope.to(y.dtype)

        def projected(y: Tensor) -> Tensor:
            read = self.projection
            if read is None:
                return y
            maps = [layers[index].projection for index in read.layers]
            return called(read, maps, (y,), "projection")  # type: ignore[arg-type]

        carry = self.integrator.advance(stage, size, carry)
        return self.integrator.amend(carry, projected)


@dataclass(frozen=True)
class StepPlan:
    """One step of a grid: its structure, the controls it reads, and its numbers."""

    structure: Structure
    controls: tuple[int, ...]
    numbers: tuple[float, ...]


def plan_step(field: ControlledField, integrator: Integrator, step: int) -> StepPlan:
    """The plan of a step of a block's grid."""
    start, end = field.alignment.grid.points[step : step + 2]
    fractions = tuple(dict.fromkeys(integrator.fractions))
    places = [*fractions, *([1.0] if field.controls.projects else [])]
    terms = [field.terms(step, fraction) for fraction in places]
    controls = tuple(dict.fromkeys(index for each in terms for index, _ in each))
    numbers = [start, end - start]
    reads = []
    for each in terms:
        reads.append(_read(each, controls, numbers))
    projection = reads.pop() if field.controls.projects else None
    structure = Structure(integrator, tuple(zip(fractions, reads, strict=True)), projection, field.controls.takes_time)
    return StepPlan(structure, controls, tuple(numbers))


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
        self._programs: dict[Structure, Callable[..., Any]] = {}
        self._numbers: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        self._plans: list[StepPlan] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return StepPrograms, ()

    def __len__(self) -> int:
        return len(self._programs)

    def plans(self, march: "CompiledMarch") -> list[StepPlan]:
        """Those of all steps."""
        if self._plans is None:
            field = march.field
            assert isinstance(field, ControlledField)
            self._plans = [plan_step(field, march.integrator, step) for step in range(march.steps)]
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

    def program(self, structure: Structure) -> Callable[..., Any]:
        """The compiled step of a structure."""
        if structure not in self._programs:
            self._programs[structure] = torch.compile(_step_of(structure), fullgraph=True, backend=self.backend)
        return self._programs[structure]


_numbered = count()


def _step_of(structure: Structure) -> Callable[..., Carry]:
    """A function of its own: the compiler counts programs, up to a limit, for each code object."""

    def step(layers: tuple[nn.Module, ...], numbers: Tensor, carry: Carry) -> Carry:
        return structure.run(layers, numbers, carry)

    code = step.__code__.replace(co_name=f"step_{next(_numbered)}")
    return FunctionType(code, step.__globals__, code.co_name, None, step.__closure__)


@dataclass(frozen=True)
class CompiledMarch(FixedMarch):
    """The loop over a fixed grid, each step a call of a compiled program.

    Args:
        programs: of the block.
        name: of the block, for the warning that it was not compiled.
    """

    programs: StepPrograms
    name: str

    def advance(self, carry: Carry, first: int, last: int) -> Carry:
        programs, field = self.programs, self.field
        assert isinstance(field, ControlledField)
        if programs.failed or torch.compiler.is_compiling():
            return super().advance(carry, first, last)
        plans = programs.plans(self)
        numbers = programs.numbers(plans, self.state(carry))
        for step in range(first, last):
            if programs.failed:
                carry = super().advance(carry, step, step + 1)
                continue
            plan = plans[step]
            layers = tuple(field.controls.layers[index] for index in plan.controls)
            try:
                with warnings.catch_warnings():
                    # Tracing looks at `grad` of inputs that are no leaves.
                    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
                    carry = programs.program(plan.structure)(layers, numbers[step], carry)
            except Exception as error:
                programs.failed = True
                lines = f"{type(error).__name__}: {error}".splitlines()
                warnings.warn(f"{self.name} was not compiled and runs as usual: {lines[0]:.300}", stacklevel=5)
                carry = super().advance(carry, step, step + 1)
        return carry


def check_compilable(integrator: Integrator, gradient: Gradient) -> None:
    """Raise a ConfigurationError for steps that depend on values, or that are run again from outside their program."""
    if not integrator.fixed_cost:
        raise ConfigurationError(
            f"compile=True compiles steps of a fixed cost, but those of {integrator.name} depend on the state; leave "
            "compile out, or take an explicit integrator on the grid, such as 'rk4'"
        )
    if isinstance(gradient, Checkpoint):
        raise ConfigurationError(
            "compile=True and gradient='checkpoint' do not go together: a second run of a compiled step need not keep "
            "the tensors of the first. Compile the whole network with torch.compile, where both runs are one graph, or "
            "use gradient='backprop'"
        )
