"""What a basis in time is: knots, functions phi_k, where its controls stand, and how it is refined."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from dynamicblocks.controls.alignment import Location
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.registry import Registry
from dynamicblocks.times import Grid, check_count, check_increasing

Terms = tuple[tuple[int, float], ...]
"""The basis functions that are not zero at a time: pairs (k, phi_k)."""

Matrix = NDArray[np.float64]


def is_one_control(terms: Terms) -> bool:
    """Whether theta is a single control as it is, so that nothing is blended."""
    return len(terms) == 1 and terms[0][1] == 1.0


@dataclass(frozen=True)
class Basis(ABC):
    """Functions phi_k of time, smooth between knots, that blend K controls: theta(t) = sum_k phi_k(t) theta_k.

    A basis is immutable data and holds no weights. Knots are absolute times. Without knots it is a wish ("eight
    controls") that :meth:`over` turns into a basis on the span of a grid.

    Args:
        size: number of controls K.
        knots: strictly increasing times that bound the pieces.
    """

    name: ClassVar[str]

    size: int | None = None
    knots: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            check_count(self.size, f"the number of controls of {type(self).__name__}", least=self.size_of(1))
        if self.knots is not None:
            object.__setattr__(self, "knots", check_increasing(self.knots, "knots"))

    @classmethod
    @abstractmethod
    def size_of(cls, intervals: int) -> int:
        """Number of controls on so many intervals of time (polynomials, which take any number: the default)."""

    @property
    @abstractmethod
    def intervals(self) -> int | None:
        """Number of intervals between knots, None if open."""

    @property
    @abstractmethod
    def degree(self) -> int:
        """Polynomial degree of the basis functions between knots."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[Location, ...]:
        """The places where the controls stand. Theta there is the control itself, unless the basis says otherwise."""

    @abstractmethod
    def terms(self, interval: int, fraction: float) -> Terms:
        """The nonzero basis functions at ``fraction`` in [0, 1] of an interval, limits taken from inside it."""

    @abstractmethod
    def over(self, grid: Grid) -> Self:
        """The basis with what it leaves open filled in: knots on the span of the grid, a size that suits its steps."""

    @abstractmethod
    def unit_grid(self) -> Grid:
        """The steps of a block that is given none: one for each interval, or for each control of a polynomial.

        Raises:
            ConfigurationError: without a size there is nothing to count.
        """

    @abstractmethod
    def refine(self, factor: int = 2) -> Self:
        """A basis that contains this one: each interval, or the number of a polynomial's controls, times ``factor``."""

    @abstractmethod
    def coarsen(self, factor: int = 2) -> Self:
        """What :meth:`refine` undone would be.

        Raises:
            ConfigurationError: the number of intervals, or of a polynomial's controls, is no multiple of ``factor``.
        """

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
        """Lengths of time between neighbouring controls, for difference quotients of theta."""
        return tuple(b - a for a, b in pairwise(self.time(node) for node in self.nodes))

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

        Theta is read at the nodes, exact to the last bit where a node of one basis is a node of the other.
        """
        places = []
        for node in self.nodes:
            # A node at a knot belongs to one of its sides: that of the interval it is named by.
            inside = self.time(Location(node.interval, 0.5))
            places.append(old.place(self.time(node), beside=inside))
        return old.values(places)


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
    raise ConfigurationError(f"controls must be a basis, a string such as 'linear(5)' or a number, got {controls!r}")
