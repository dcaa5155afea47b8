"""The right-hand side f(t, y; theta(t)) at any time, for methods that choose their own steps."""

import copy
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from dynamicblocks.controls.alignment import Alignment, Location
from dynamicblocks.controls.basis import GENERIC, Basis, Terms, is_one_control
from dynamicblocks.controls.controls import Controls
from dynamicblocks.layers.parts import PROJECTION
from dynamicblocks.layers.stand_in import Places, stand_in

# A place nearer to a knot than this share of the interval is at the knot: nothing is blended for a rounding error.
_AT_KNOT = 1e-12


class TimedField:
    """Controls read at any time within the span of a grid.

    A time just before a knot, however near, is before it, and one just after it is after it. Callers that end steps at
    the knots read the neighbouring numbers there.

    Args:
        controls: read.
        alignment: of the block; its grid points that stand for knots are those knots.
        narrow: the type of the layers, where the states are wider.
    """

    def __init__(self, controls: Controls, alignment: Alignment, narrow: torch.dtype | None = None) -> None:
        self.controls, self.times, self.narrow = controls, alignment.times, narrow
        self._kept: tuple[float, bool, dict[str, Tensor]] | None = None

    def apart(self, places: Places) -> "TimedField":
        """The same with other buffers, without a change of the layers."""
        other = copy.copy(self)
        other.controls, other._kept = stand_in(self.controls, {}, places), None
        return other

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y; theta(t)); the time is on the CPU, in double precision."""
        time = float(t)
        terms = self.terms(time)
        theta = None
        if not is_one_control(terms):
            # Methods read some times again and again; theta with a graph serves no pass without one, nor the reverse.
            key = (time, torch.is_grad_enabled())
            if self._kept is None or self._kept[:2] != key:
                self._kept = (*key, self.controls.parameters_at(terms))
            theta = self._kept[2]
        return self.controls.evaluate(terms, time, self._seen(y), theta=theta)

    def _seen(self, y: Tensor) -> Tensor:
        return y if self.narrow is None else y.to(self.narrow)

    def terms(self, time: float) -> Terms:
        """The basis functions at a time."""
        place = self.controls.basis.place(time)
        fraction = 0.0 if place.fraction < _AT_KNOT else 1.0 if place.fraction > 1 - _AT_KNOT else place.fraction
        return self.controls.basis.terms(place.interval, fraction)

    @property
    def projects(self) -> bool:
        """Whether the layer has a projection."""
        return PROJECTION in self.controls.parts

    def projection(self, step: int, y: Tensor) -> Tensor:
        """The layer's projection of the state at the end of a step of the grid, seen from inside the step."""
        end = self.times[step + 1]
        terms = self.terms(np.nextafter(end, -np.inf))
        return self.controls.evaluate(terms, end, self._seen(y.clone()), part=PROJECTION).to(y.dtype)

    def stops(self) -> tuple[list[float], list[float]]:
        """Knots inside the span where theta(t) bends, and those where it jumps."""
        basis = self.controls.basis
        inside = [(n, knot) for n, knot in enumerate(basis.points) if self.times[0] < knot < self.times[-1]]
        jumps = [knot for n, knot in inside if _jumps(basis, n)]
        return [knot for _, knot in inside if knot not in jumps], jumps

    def controls_read(self) -> set[int]:
        """Indices of the controls on which theta depends somewhere within the span."""
        read = {index for time in self._inner_times() for index, _ in self.terms(time)}
        if self.projects:
            ends = (float(np.nextafter(end, -np.inf)) for end in self.times[1:])
            read |= {index for end in ends for index, _ in self.terms(end)}
        return read

    def layers_near(self, time: float) -> list[nn.Module]:
        """The layers that are read between the knots around a time, seen from after it."""
        interval = self.controls.basis.place(time).interval
        read = {index for at in GENERIC for index, _ in self.controls.basis.terms(interval, at)}
        return [self.controls.layers[index] for index in sorted(read)]

    def _inner_times(self) -> Iterator[float]:
        knots = [knot for knot in self.controls.basis.points if self.times[0] < knot < self.times[-1]]
        for left, right in pairwise([self.times[0], *knots, self.times[-1]]):
            yield from (left + at * (right - left) for at in GENERIC)


def _jumps(basis: Basis, knot: int) -> bool:
    """Whether the basis functions differ on both sides of an inner knot."""
    before, after = basis.values([Location(knot - 1, 1.0), Location(knot, 0.0)])
    return bool(np.abs(before - after).max() > 1e-9)
