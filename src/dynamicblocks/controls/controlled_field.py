"""The right-hand side f(t, y; theta(t)) on a fixed grid."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.controls.alignment import Alignment
from dynamicblocks.controls.basis import Terms, is_one_control
from dynamicblocks.controls.controls import Controls
from dynamicblocks.counting import Tallied
from dynamicblocks.layers.lending import Lender
from dynamicblocks.layers.parts import FIELD, PROJECTION
from dynamicblocks.layers.stand_in import Places, stand_in

# Of basis functions on both sides of a knot; what differs by less differs by rounding.
SAME = 1e-9


@dataclass(frozen=True)
class ControlledField:
    """Controls read along a grid: on each step, the parts of the layer as functions of the fraction of the step.

    Args:
        controls: read.
        alignment: of the grid with their knots.
        tally: counts evaluations, where they are not known beforehand.
        lenders: hand the state to each part, which may change it in place.
        unsolved: told of the equations that an integrator could not solve, with the number of the step.
    """

    controls: Controls
    alignment: Alignment
    tally: Tallied | None = None
    lenders: dict[str, Lender] = field(default_factory=dict, compare=False, repr=False)
    unsolved: Callable[[int, Any], None] | None = None

    @property
    def parts(self) -> Mapping[str, str]:
        """The parts of the layer."""
        return self.controls.parts

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The weights of all controls."""
        return list(self.controls.parameters())

    @property
    def modules(self) -> list[nn.Module]:
        """The layers of all controls."""
        return list(self.controls.layers)

    def apart(self, places: Places) -> "ControlledField":
        """The same with other buffers, without a change of the layers."""
        return replace(self, controls=stand_in(self.controls, {}, places))

    def terms(self, step: int, fraction: float) -> Terms:
        """The basis functions at a stage."""
        return self.controls.basis.terms(*self.alignment.locate(step, fraction))

    def on_step(self, step: int) -> "ControlledStage":
        """The layer on step n."""
        return ControlledStage(self, step)

    def jumps(self, step: int, derivatives: int = 0) -> bool:
        """Whether theta, or one of so many first derivatives, is another at the begin of a step than just before."""
        if derivatives:
            before, after = self.alignment.locate(step - 1, 1.0).interval, self.alignment.locate(step, 0.0).interval
            return before != after and self.controls.basis.first_jumps[before] <= derivatives
        left, right = dict(self.terms(step - 1, 1.0)), dict(self.terms(step, 0.0))
        return any(abs(left.get(k, 0.0) - right.get(k, 0.0)) > SAME for k in left.keys() | right.keys())

    def controls_read(self, steps: Iterable[int], reads: Iterable[tuple[float, str]]) -> set[int]:
        """Indices of the controls that these steps read there, and for their projections."""
        at = {fraction for fraction, _ in reads} | ({1.0} if PROJECTION in self.controls.parts else set())
        return {index for step in steps for fraction in at for index, _ in self.terms(step, fraction)}

    def layers_read(self, steps: Iterable[int], reads: Iterable[tuple[float, str]]) -> list[nn.Module]:
        """The layers of :meth:`controls_read`."""
        return [self.controls.layers[index] for index in sorted(self.controls_read(steps, reads))]


class ControlledStage:
    """The layer on one step: (c, y) -> f(t_n + c h, y; theta), and its other parts.

    Args:
        field: along the grid.
        step: n.
    """

    def __init__(self, field: ControlledField, step: int) -> None:
        self._field, self.step = field, step
        self._start, self._end = field.alignment.grid.points[step : step + 2]
        self._blended: dict[tuple[float, str, bool], dict[str, Tensor]] = {}

    @property
    def unsolved(self) -> Callable[[Any], None] | None:
        """Told of equations of the step that were not solved."""
        told = self._field.unsolved
        return None if told is None else partial(told, self.step)

    def __call__(self, c: float, y: Tensor) -> Tensor:
        return self.part(FIELD, c, y)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """A part of the layer, with theta at the fraction c; at the ends of the step the limits from inside it."""
        field = self._field
        controls, terms = field.controls, field.terms(self.step, c)
        if field.tally is not None and name != PROJECTION:
            field.tally.evaluations += 1
        theta = None
        if not is_one_control(terms):
            # Methods read some times twice (rk4: the midpoint), and parts share theta: blend once. Implicit methods
            # look for a root without a graph and then want one: what was blended without must not serve them.
            key = (c, controls.holder[name], torch.is_grad_enabled())
            if key not in self._blended:
                self._blended[key] = controls.parameters_at(terms, name)
            theta = self._blended[key]
        time = self._start + c * (self._end - self._start)
        if torch.compiler.is_compiling():
            # Where the layer leaves the state alone, the compiler leaves the copy out.
            return controls.evaluate(terms, time, y.clone(), *extra, part=name, theta=theta)
        if name not in field.lenders:
            field.lenders[name] = Lender(f"the {name} of {type(controls.layers[0]).__name__}")
        return field.lenders[name](lambda y: controls.evaluate(terms, time, y, *extra, part=name, theta=theta), y)
