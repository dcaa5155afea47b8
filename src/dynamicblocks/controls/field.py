"""The right-hand side f(t, y; theta(t)) on a fixed grid."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamicblocks.controls.alignment import Alignment
from dynamicblocks.controls.basis import Terms, is_one_control
from dynamicblocks.controls.controls import Controls


@dataclass(frozen=True)
class ControlledField:
    """Controls read along a grid: on each step, the field as a function of the fraction c of the step and the state."""

    controls: Controls
    alignment: Alignment

    def terms(self, step: int, fraction: float) -> Terms:
        """The basis functions at a stage."""
        return self.controls.basis.terms(*self.alignment.locate(step, fraction))

    def on_step(self, step: int) -> Callable[[float, Tensor], Tensor]:
        """The stage function (c, y) -> f(t_n + c h, y; theta) of step n."""
        start, end = self.alignment.grid.points[step : step + 2]
        blended: dict[tuple[float, bool], dict[str, Tensor]] = {}

        def stage(fraction: float, y: Tensor) -> Tensor:
            terms = self.terms(step, fraction)
            # Methods read some times twice (rk4: the midpoint); blend once. Implicit ones look for a root without a
            # graph and then want one: what was blended without must not serve them.
            key = (fraction, torch.is_grad_enabled())
            if not is_one_control(terms) and key not in blended:
                blended[key] = self.controls.parameters_at(terms)
            return self.controls.evaluate(terms, start + fraction * (end - start), y, theta=blended.get(key))

        return stage

    def projection(self, step: int, y: Tensor) -> Tensor:
        """The layer's projection of the state after step n, of the control at the end of the step, seen from inside."""
        if not self.controls.projects:
            return y
        return self.controls.evaluate(self.terms(step, 1.0), self.alignment.grid.points[step + 1], y, call="projection")

    def controls_read(self, steps: Iterable[int], fractions: Sequence[float]) -> set[int]:
        """Indices of the controls that these steps read at these fractions, and for their projections."""
        at = {*fractions, 1.0} if self.controls.projects else set(fractions)
        return {index for step in steps for fraction in at for index, _ in self.terms(step, fraction)}

    def layers_read(self, steps: Iterable[int], fractions: Sequence[float]) -> list[nn.Module]:
        """The layers of :meth:`controls_read`."""
        return [self.controls.layers[index] for index in sorted(self.controls_read(steps, fractions))]
