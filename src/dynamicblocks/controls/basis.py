"""What a basis in time is: knots, functions phi_k, where its controls stand, and how it is refined."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.controls.alignment import Location
from dynamicblocks.controls.projection import projection_matrix
from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.registry import Registry
from dynamicblocks.times import MAX_CONTROLS, Grid, check_count, check_increasing, subdivide, uniform

Terms = tuple[tuple[int, float], ...]
"""The basis functions that are not zero at a time: pairs (k, phi_k)."""

Matrix = NDArray[np.float64]

# Inner places of an interval at which no usual polynomial basis has a node.
GENERIC = (0.3819660112501051, 0.7182818284590452)
# Sums of functions, and lengths as shares of the span, that differ by no more differ by rounding.
SAME = 1e-9


def is_one_control(terms: Terms) -> bool:
    """Whether theta is a single control as it is, so that nothing is blended."""
    return len(terms) == 1 and terms[0][1] == 1.0


@dataclass(frozen=True)
class Basis(ABC):
    """Functions phi_k of time, smooth between knots, that blend K controls: theta(t) = sum_k phi_k(t) theta_k.

    A basis is immutable data and holds no weights. Knots are absolute times. Without knots it is a wish ("eight
    controls") that :meth:`over` turns into a basis on the span of a grid.

    A basis of one's own needs :meth:`size_of`, :attr:`degree` and :meth:`terms`; all else follows. :attr:`nodes` are
    worth a fourth where controls are values of theta. ``@bases.register("name")`` gives it a name for strings and for
    files of weights, the same as its class attribute ``name`` (by default that of the class). A basis of functions of
    the whole span is a :class:`~dynamicblocks.controls.Spectral`.

    Args:
        size: number of controls K.
        knots: strictly increasing times that bound the pieces.

    Raises:
        ConfigurationError: no number of intervals makes so many controls, or that of the knots makes others.

    >>> class Parabolas(Basis):  # on each interval one of its own: value, slope and curvature at its begin
    ...     degree = 2
    ...
    ...     def size_of(self, intervals):
    ...         return 3 * intervals
    ...
    ...     def terms(self, interval, fraction):
    ...         return tuple((3 * interval + power, fraction**power) for power in range(3))
    >>> Parabolas(6).over(Grid((0, 1, 2, 4)))
    Parabolas(size=6, knots=(0.0, 2.0, 4.0))
    """

    name: ClassVar[str]
    most: ClassVar[int] = MAX_CONTROLS
    """Most controls."""

    size: int | None = None
    knots: tuple[float, ...] | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Under the name of its parent, a file of weights would be read back with the parent's functions.
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __post_init__(self) -> None:
        if self.size is not None:
            self._check_size(self.size)
        if self.knots is not None:
            object.__setattr__(self, "knots", check_increasing(self.knots, "knots"))
        self._match()

    def _check_size(self, size: int) -> int:
        return check_count(size, f"the number of controls of {type(self).__name__}", self.size_of(1), self.most)

    def _match(self) -> None:
        """Let the size follow from the knots, or raise where the two do not agree."""
        if self.size is not None:
            intervals = self._intervals_of(self.size)
            possible = self.size_of(intervals)
            if possible != self.size:
                raise ConfigurationError(
                    f"{type(self).__name__}: no number of intervals makes {self.size} controls; "
                    f"{possible} or {self.size_of(intervals + 1)} would do"
                )
        if self.knots is not None:
            size = self.size_of(len(self.knots) - 1)
            if self.size not in (None, size):
                raise ConfigurationError(
                    f"{type(self).__name__}: {len(self.knots)} knots make {size} controls, but {self.size} were asked "
                    "for"
                )
            object.__setattr__(self, "size", self._check_size(size))

    @abstractmethod
    def size_of(self, intervals: int) -> int:
        """Number of controls on so many intervals between knots; it increases."""

    @property
    @abstractmethod
    def degree(self) -> int:
        """Polynomial degree of the functions between knots; of others, one that is as good as they are."""

    @abstractmethod
    def terms(self, interval: int, fraction: float) -> Terms:
        """The nonzero basis functions at ``fraction`` in [0, 1] of an interval, limits taken from inside it.

        A control that is alone with a weight of one is called as it is; others are blended. Functions that sum to one
        blend running statistics to statistics; others, of waves for example, are for layers without any.
        """

    @property
    def nodes(self) -> tuple[Location, ...]:
        """The places where the controls stand: there theta is the control itself, unless the basis says otherwise.

        By default they are no values, and stand in the middle of their functions: at the means of time over |phi_k|.
        """
        abscissae, weights = np.polynomial.legendre.leggauss(self.degree + 1)
        intervals = range(len(self.points) - 1)
        places = [Location(interval, fraction) for interval in intervals for fraction in (1 + abscissae) / 2]
        lengths = np.outer(Grid(self.points).sizes, weights).ravel()
        masses = lengths[:, None] * np.abs(self.values(places))
        centres = [self.time(place) for place in places] @ masses / masses.sum(axis=0)
        return tuple(self.place(time) for time in centres.tolist())

    @cached_property
    def first_jumps(self) -> tuple[int, ...]:
        """For each inner knot the first derivative of theta(t) that jumps there: 0 for theta itself.

        One more than the degree where none does.

        >>> from dynamicblocks.controls import CubicBSpline, PiecewiseLinear
        >>> PiecewiseLinear(knots=(0, 1, 3)).first_jumps, CubicBSpline(knots=(0, 1, 3)).first_jumps
        ((1,), (3,))
        """
        count = self.degree + 1
        fractions = np.linspace(0.0, 1.0, count)
        sizes = Grid(self.points).sizes

        def taylor(interval: int, end: float) -> Matrix:
            """Coefficients about an end of an interval, in powers of the shortest interval, (count, size)."""
            distances = (fractions - end) * sizes[interval] / min(sizes)
            values = self.values([Location(interval, fraction) for fraction in fractions.tolist()])
            return np.linalg.solve(np.vander(distances, increasing=True), values).astype(np.float64)

        found = []
        for knot in range(1, len(self.points) - 1):
            jumps = np.abs(taylor(knot - 1, 1.0) - taylor(knot, 0.0)).max(axis=1) > 1e-6
            found.append(int(jumps.argmax()) if jumps.any() else count)
        return tuple(found)

    @property
    def intervals(self) -> int | None:
        """Number of intervals between knots, None if open."""
        return None if self.size is None else self._intervals_of(self.size)

    def _intervals_of(self, size: int) -> int:
        """The largest number of intervals that needs no more controls."""
        return bisect_right(range(1, size + 1), size, key=self.size_of)

    def over(self, grid: Grid) -> Self:
        """The basis with knots: its own, or uniform over the grid's span, or (no size given) the grid's points."""
        if self.knots is not None:
            return self
        if self.intervals is None:
            return replace(self, knots=grid.points)
        return replace(self, knots=uniform(*grid.span, steps=self.intervals).points)

    def unit_grid(self) -> Grid:
        """The steps of a block that is given none: one for each interval, of length 1 where there are no knots yet.

        Raises:
            ConfigurationError: without a size there is nothing to count.
        """
        if self.knots is not None:
            return Grid(self.knots)
        if self.intervals is None:
            raise no_depth()
        return uniform(0.0, float(self.intervals), steps=self.intervals)

    def refine(self, factor: int = 2) -> Self:
        """Every interval between knots cut into ``factor`` equal ones; the new basis contains this one."""
        check_count(factor, "the refinement factor", least=2)
        self._check_size(self.size_of((len(self.points) - 1) * factor))
        return replace(self, size=None, knots=subdivide(self.points, factor))

    def coarsen(self, factor: int = 2) -> Self:
        """What :meth:`refine` undone would be: every ``factor`` neighbouring intervals joined to one.

        Raises:
            ConfigurationError: the number of intervals is no multiple of ``factor``.
        """
        check_count(factor, "the coarsening factor", least=2)
        intervals = len(self.points) - 1
        if intervals % factor:
            raise ConfigurationError(f"{intervals} intervals of controls cannot be joined by {factor}")
        return replace(self, size=None, knots=self.points[::factor])

    def with_intervals(self, count: int) -> Self:
        """The basis on ``count`` equal intervals over the same span; knots of equal ones of before stay."""
        check_count(count, "the number of control intervals")
        lengths, present = Grid(self.points).sizes, len(self.points) - 1
        if max(lengths) - min(lengths) <= SAME * sum(lengths):
            if count % present == 0:
                return self if count == present else self.refine(count // present)
            if present % count == 0:
                return self.coarsen(present // count)
        return replace(self, size=None, knots=uniform(self.points[0], self.points[-1], steps=count).points)

    @property
    def points(self) -> tuple[float, ...]:
        """The knots, or an error if the basis has not been given any."""
        if self.knots is None:
            raise ConfigurationError(f"{self!r} has no knots yet; give knots, or call over(grid)")
        return self.knots

    @property
    def count(self) -> int:
        """The number of controls, or an error if it is open."""
        if self.size is None:
            raise ConfigurationError(f"{self!r} has no size yet; give one, or call over(grid)")
        return self.size

    def distances(self) -> tuple[float, ...]:
        """Lengths of time between neighbouring controls, for difference quotients of theta.

        No time passes between the values on both sides of a knot. Their distance is the mean length of its two
        neighbours, as between two constant pieces, so that a jump costs a smoothness penalty what it costs there.

        Raises:
            ConfigurationError: the controls do not stand one after the other, as coefficients of waves do not, or
                equal ones are no constant theta, as those of value and slope are not.
        """
        lengths = Grid(self.points).sizes
        found: list[float] = []
        for here, there in pairwise(self.nodes):
            distance = self.time(there) - self.time(here)
            if distance == 0.0 and there.interval > here.interval:
                distance = (lengths[here.interval] + lengths[there.interval]) / 2
            if distance <= 0.0:
                raise ConfigurationError(
                    f"controls {len(found)} and {len(found) + 1} of {type(self).__name__} do not stand one after the "
                    "other, so their difference is no slope in time; leave out the smoothness penalty, or define the "
                    "nodes or distances() of the basis"
                )
            found.append(distance)
        inside = [Location(interval, at) for interval in range(len(lengths)) for at in GENERIC]
        if found and np.abs(self.values(inside).sum(axis=1) - 1.0).max() > SAME:
            raise ConfigurationError(
                f"the functions of {type(self).__name__} do not sum to one, so controls that are equal are no constant "
                "theta, and their difference is no slope in time; leave out the smoothness penalty, or define "
                "distances() of the basis"
            )
        return tuple(found)

    def time(self, place: Location) -> float:
        """The time of a place between the knots."""
        left, right = self.points[place.interval : place.interval + 2]
        # left + (right - left) may round to a neighbour of right.
        return right if place.fraction == 1.0 else left + place.fraction * (right - left)

    def place(self, time: float, beside: float | None = None) -> Location:
        """The place of a time between the knots; at a knot, in the interval that holds the time ``beside``."""
        interval = bisect_right(self.points, time if beside is None else beside) - 1
        interval = min(max(interval, 0), len(self.points) - 2)
        left, right = self.points[interval : interval + 2]
        return Location(interval, min(max((time - left) / (right - left), 0.0), 1.0))

    def values(self, places: Sequence[Location]) -> Matrix:
        """The matrix phi_k(place), one row a place."""
        matrix = np.zeros((len(places), self.count))
        for row, place in enumerate(places):
            for index, weight in self.terms(*place):
                matrix[row, index] += weight
        return matrix

    def controls_from(self, old: "Basis") -> Matrix:
        """The map from the controls of ``old``, which this basis contains, to its own, with the same theta(t).

        Theta is read at the nodes, exact to the last bit where a node of one basis is a node of the other. Where the
        nodes are no values of theta, it is projected, exact to rounding.
        """
        read = ([term for term in self.terms(*node) if term[1] != 0.0] for node in self.nodes)
        if any(terms != [(index, 1.0)] for index, terms in enumerate(read)):
            return projection_matrix(old, self)
        places = []
        for node in self.nodes:
            # A node at a knot belongs to one of its sides: that of the interval it is named by.
            inside = self.time(Location(node.interval, 0.5))
            places.append(old.place(self.time(node), beside=inside))
        return old.values(places)

    def nearest_from(self, old: "Basis") -> Matrix:
        """The map from the controls of ``old`` to those of its own with the nearest theta(t).

        It is the same theta(t) where this basis contains the other one, as after a refinement; else its projection.
        """
        if self == old:
            return np.eye(self.count)
        contained = set(old.points) <= set(self.points) and self.count >= old.count
        return self.controls_from(old) if contained else projection_matrix(old, self)


def no_depth() -> ConfigurationError:
    """The error for a block of which nothing tells how deep it is."""
    return ConfigurationError(
        "give times, or a number of controls such as controls='constant(8)': with neither, the depth is unknown"
    )


bases: Registry[Basis] = Registry("basis of controls")


def as_basis(controls: Basis | str | int) -> Basis:
    """A basis from what a caller may write: a basis, a string such as ``"linear(5)"``, or a number of constant pieces.

    >>> as_basis("constant(4)").size
    4
    """
    if isinstance(controls, Basis):
        return controls
    if isinstance(controls, str):
        return bases.create(controls)
    if isinstance(controls, int) and not isinstance(controls, bool):
        return bases["constant"](controls)
    raise ConfigurationError(
        f"controls must be a basis, a string such as 'linear(5)' or a number, got {brief(controls)}"
    )
