"""Time grids: the instants t_0 < t_1 < ... < t_N at which a block holds a state."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.registry import Registry

grids: "Registry[Grid]" = Registry("time grid")

MAX_STEPS = 1_000_000
"""Most steps of a grid that a number or a size of steps makes, where the caller allows no others."""

MAX_CONTROLS = 10_000
"""Most controls of a block: each is a layer, and the deepest networks that anybody has trained have so many."""

MAX_BLOCK_STEPS = 100_000
"""Most steps of a block of a network that is named, and of one in a training: ten for each of the most controls."""

MAX_WIDTHS = 1_000
"""Most entries of a list of counts, each of which makes a block."""

MAX_COUNT = 2**63 - 1
"""The largest whole number that tensors and their generators of random numbers know."""


def check_increasing(points: Sequence[float], what: str) -> tuple[float, ...]:
    """Return ``points`` as floats, or raise: at least two, finite, strictly increasing."""
    try:
        values = tuple(float(point) for point in points)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{what} must be a sequence of numbers, got {brief(points)}") from error
    if len(values) < 2:
        raise ConfigurationError(f"{what} need at least two points, got {len(values)}")
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ConfigurationError(f"{what} must be finite, but point {index} is {value}")
    for index, (before, after) in enumerate(pairwise(values)):
        if not before < after:
            raise ConfigurationError(
                f"{what} must increase strictly, but point {index} is {before} and point {index + 1} is {after}"
            )
    return values


def check_count(value: int, what: str, least: int = 1, most: int = MAX_COUNT) -> int:
    """Return ``value``, or raise: a whole number of at least ``least``, and no more than ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        too_large = isinstance(value, int) and value > most
        bounds = f"from {least} to {most:,}" if too_large else f"of at least {least}"
        raise ConfigurationError(f"{what} must be a whole number {bounds}, got {brief(value)}")
    return value


def check_seed(value: int, what: str) -> int:
    """Return ``value``, or raise: a seed of random numbers."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ConfigurationError(f"{what} must be a whole number from 0 to 2^63 - 1 = {MAX_COUNT}, got {brief(value)}")
    return value


def check_steps(value: int, what: str = "steps", most: int = MAX_STEPS) -> int:
    """Return ``value``, or raise: a number of steps that a grid can have."""
    if check_count(value, what) > most:
        raise ConfigurationError(
            f"{what} must be at most {most:,}, got {brief(value)}: each step is a time that is held, and an evaluation "
            "of the field; take fewer and longer steps"
        )
    return value


def check_counts(values: Sequence[int], what: str) -> tuple[int, ...]:
    """Return ``values`` as a tuple, or raise: whole numbers of at least 1, one or more of them."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or not values:
        raise ConfigurationError(f"{what} must be a list of whole numbers such as (16, 32), got {brief(values)}")
    if len(values) > MAX_WIDTHS:
        raise ConfigurationError(f"{what} must be a list of at most {MAX_WIDTHS:,} whole numbers, got {len(values):,}")
    return tuple(check_count(value, f"each of {what}") for value in values)


def check_amount(value: float, what: str, most: float = sys.float_info.max) -> float:
    """Return ``value``, or raise: a finite number, zero or more, and no more than ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        bounds = "zero or more and finite" if most == sys.float_info.max else f"a number from 0 to {most:g}"
        raise ConfigurationError(f"{what} must be {bounds}, got {brief(value)}")
    return value


def check_positive(value: float, what: str, why: str = "") -> float:
    """Return ``value``, or raise: a finite number above zero; ``why`` is said of zero.

    >>> check_positive(0.5, "step")
    0.5
    """
    if check_amount(value, what) == 0:
        raise ConfigurationError(f"{what} must be positive, got 0{why}")
    return value


@dataclass(frozen=True)
class Grid:
    """A strictly increasing sequence of times; step n goes from ``points[n]`` to ``points[n + 1]``.

    Args:
        points: at least two finite, strictly increasing numbers (any unit; with weights counted in layers, a step of
            length 1 is one layer of a residual network).

    Raises:
        ConfigurationError: the points are too few, not finite or not increasing.

    >>> Grid((0, 1, 4)).sizes
    (1.0, 3.0)
    """

    points: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", check_increasing(self.points, "times"))

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.points) - 1

    @property
    def sizes(self) -> tuple[float, ...]:
        """Step sizes h_n = t_{n+1} - t_n."""
        return tuple(after - before for before, after in pairwise(self.points))

    @property
    def span(self) -> tuple[float, float]:
        """First and last time."""
        return self.points[0], self.points[-1]

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[float]:
        return iter(self.points)

    def refine(self, factor: int = 2) -> "Grid":
        """Split every step into ``factor`` equal ones.

        >>> Grid((0, 1, 4)).refine().points
        (0.0, 0.5, 1.0, 2.5, 4.0)
        """
        check_count(factor, "the refinement factor")
        check_steps(self.steps * factor, f"steps refined by {factor:,}")
        return Grid(subdivide(self.points, factor))


def subdivide(points: Sequence[float], factor: int) -> tuple[float, ...]:
    """Every interval between neighbouring points cut into ``factor`` equal ones; the points themselves are kept."""
    inner = [a + (b - a) * part / factor for a, b in pairwise(points) for part in range(factor)]
    return (*inner, points[-1])


@grids.register("uniform")
def uniform(t0: float, t1: float, *, steps: int) -> Grid:
    """``steps`` equal steps from ``t0`` to ``t1``.

    >>> uniform(0, 1, steps=4).points
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    check_steps(steps)
    t0, t1 = check_increasing((t0, t1), "times")
    # t1 itself ends the grid: t0 + (t1 - t0) may round to a neighbour of it.
    return Grid((*(t0 + (t1 - t0) * n / steps for n in range(steps)), t1))


@grids.register("graded")
def graded(t0: float, t1: float, *, steps: int, ratio: float) -> Grid:
    """Geometrically growing steps, h_{n+1} / h_n constant, the last ``ratio`` times as long as the first.

    >>> graded(0, 7, steps=3, ratio=4).sizes
    (1.0, 2.0, 4.0)
    """
    check_steps(steps)
    t0, t1 = check_increasing((t0, t1), "times")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= sys.float_info.max:
        raise ConfigurationError(f"ratio (last step over first) must be positive and finite, got {brief(ratio)}")
    growth = ratio ** (1 / (steps - 1)) if steps > 1 else 1.0
    sums = _running_sums(growth**n for n in range(steps))
    ends = [t0 + (t1 - t0) * each / sums[-1] for each in sums[:-1]]
    return Grid((t0, *ends, t1))


def _running_sums(values: Iterable[float]) -> list[float]:
    """The sums of the first values, each rounded once."""
    sums, rest = [0.0], 0.0
    for value in values:
        rest = math.fsum((sums[-1], rest, value, -(total := math.fsum((sums[-1], rest, value)))))
        sums.append(total)
    return sums[1:]


Times = Grid | Sequence[float] | NDArray[np.floating] | Tensor | int | str
"""What a caller may write for a time grid."""


def as_grid(times: Times) -> Grid:
    """A grid from what a caller may write: a grid, a sequence or 1-D tensor, a string, or a number of unit steps.

    >>> as_grid(3).points
    (0.0, 1.0, 2.0, 3.0)
    >>> as_grid("uniform(0, 1, steps=2)").points
    (0.0, 0.5, 1.0)
    """
    if isinstance(times, Grid):
        return times
    if isinstance(times, str):
        return grids.create(times)
    if isinstance(times, Tensor):
        if times.ndim != 1:
            raise ConfigurationError(f"times must be one-dimensional, got a tensor of shape {tuple(times.shape)}")
        return Grid(tuple(times.tolist()))
    if isinstance(times, int) and not isinstance(times, bool):
        return uniform(0.0, float(times), steps=check_steps(times))
    if isinstance(times, Sequence | np.ndarray):
        return Grid(tuple(times))  # type: ignore[arg-type]
    raise ConfigurationError(
        f"times must be a Grid, a sequence of numbers, a string or a number of steps, got {brief(times)}"
    )
