"""Where the stages of a step fall between the knots of the controls, decided once for a grid and not by rounding."""

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import Grid

# Two times closer than this share of the span are the same time written twice (1e-6 admits float32 grids), unless
# steps or intervals are themselves so short that it would swallow them.
SAME_TIME = 1e-6
SAME_TIME_OF_SHORTEST = 1e-3


class Location(NamedTuple):
    """A place between knots: an interval, and a fraction in [0, 1] of it."""

    interval: int
    fraction: float


@dataclass(frozen=True)
class Alignment:
    """A state grid laid over the knots of a basis.

    A stage is named by its step n and its fraction c of that step, never by a floating-point time. A stage at c = 0
    or c = 1 reads the limit of theta from inside the step: where a step ends at a knot, its last stage still reads
    the interval that the step crossed; a stage at a knot inside a step reads the interval after it. A grid point or
    stage that differs from a knot by rounding alone is at that knot.

    >>> alignment = Alignment(Grid((0.0, 1.0, 2.0)), knots=(0.0, 1.0, 2.0))
    >>> alignment.locate(0, 1.0), alignment.locate(1, 0.0)
    (Location(interval=0, fraction=1.0), Location(interval=1, fraction=0.0))

    Raises:
        ConfigurationError: the grid leaves the span of the knots.
    """

    grid: Grid
    knots: tuple[float, ...]
    # Derived: how near is the same time; grid points moved onto knots; for each step, the interval it starts in and
    # the knots strictly inside it, as fractions of the step.
    _same: float = field(init=False, repr=False, compare=False)
    _times: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _cuts: tuple[tuple[float, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        gaps = [b - a for a, b in pairwise(self.knots)]
        span = self.knots[-1] - self.knots[0]
        same = min(SAME_TIME * span, SAME_TIME_OF_SHORTEST * min(*gaps, *self.grid.sizes, span))
        (t0, t1), (first, last) = self.grid.span, (self.knots[0], self.knots[-1])
        if t0 < first - same or t1 > last + same:
            raise ConfigurationError(
                f"the time grid spans [{t0}, {t1}] but the controls are known on [{first}, {last}] only; changing the "
                "grid never stretches the controls, so choose times inside their knots"
            )
        # With each grid point replaced by the knot it stands for, the comparisons below are exact.
        times = [min((k for k in self.knots if abs(k - t) <= same), default=t) for t in self.grid.points]
        cuts = []
        starts = []
        for before, after in pairwise(times):
            interval = bisect_right(self.knots, before) - 1
            starts.append(interval)
            inside = [knot for knot in self.knots[interval + 1 :] if knot < after]
            cuts.append(tuple((knot - before) / (after - before) for knot in inside))
        object.__setattr__(self, "_same", same)
        object.__setattr__(self, "_times", tuple(times))
        object.__setattr__(self, "_starts", tuple(starts))
        object.__setattr__(self, "_cuts", tuple(cuts))

    @property
    def times(self) -> tuple[float, ...]:
        """The points of the grid, those that stand for a knot moved onto it."""
        return self._times

    def locate(self, step: int, fraction: float) -> Location:
        """The place between knots of the stage at ``fraction`` in [0, 1] of a step."""
        cuts = self._cuts[step]
        before, after = self._times[step], self._times[step + 1]
        for crossed, cut in enumerate(cuts, start=1):
            if abs(cut - fraction) * (after - before) <= self._same:
                return Location(self._starts[step] + crossed, 0.0)
        # Cuts are strictly inside the step, so at its end this is the last interval crossed: the limit from inside.
        interval = self._starts[step] + sum(1 for cut in cuts if cut <= fraction)
        left, right = self.knots[interval], self.knots[interval + 1]
        time = after if fraction >= 1.0 else before + fraction * (after - before)
        return Location(interval, min(max((time - left) / (right - left), 0.0), 1.0))
