"""What a basis in time is: knots, functions phi_k, and how it is refined."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.registry import Registry
from dynamicblocks.times import Grid, check_count, check_increasing, subdivide, uniform

Terms = tuple[tuple[int, float], ...]
"""The basis functions that are not zero at a time: pairs (k, phi_k)."""


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
            knots = check_increasing(self.knots, "knots")
            size = self.size_of(len(knots) - 1)
            if self.size not in (None, size):
                raise ConfigurationError(
                    f"{type(self).__name__}: {len(knots)} knots make {size} controls, but {self.size} were asked for"
                )
            object.__setattr__(self, "knots", knots)
            object.__setattr__(self, "size", size)

    @classmethod
    @abstractmethod
    def size_of(cls, intervals: int) -> int:
        """Number of controls on so many intervals between knots."""

    @classmethod
    @abstractmethod
    def intervals_of(cls, size: int) -> int:
        """Number of intervals between knots that so many controls need."""

    @abstractmethod
    def terms(self, interval: int, fraction: float) -> Terms:
        """The nonzero basis functions at ``fraction`` in [0, 1] of an interval, limits taken from inside it."""

    @property
    @abstractmethod
    def degree(self) -> int:
        """Polynomial degree of the basis functions between knots."""

    @property
    @abstractmethod
    def nodes(self) -> tuple[float, ...]:
        """The times whose values of theta are the controls themselves: theta(nodes[k]) = theta_k."""

    @abstractmethod
    def distances(self) -> tuple[float, ...]:
        """Lengths of time between neighbouring controls, for difference quotients of theta."""

    @property
    def points(self) -> tuple[float, ...]:
        """The knots, or an error if the basis has not been given any."""
        if self.knots is None:
            raise ConfigurationError(f"{self!r} has no knots yet; give knots, or call over(grid)")
        return self.knots

    @property
    def intervals(self) -> int | None:
        """Number of intervals between knots, None if open."""
        return None if self.size is None else self.intervals_of(self.size)

    def over(self, grid: Grid) -> Self:
        """The basis with knots: its own, or uniform over the grid's span, or (no size given) the grid's points."""
        if self.knots is not None:
            return self
        if self.intervals is None:
            return type(self)(knots=grid.points)
        return type(self)(knots=uniform(*grid.span, steps=self.intervals).points)

    def refine(self, factor: int = 2) -> Self:
        """Every interval between knots cut into ``factor`` equal ones; the new basis contains the old."""
        check_count(factor, "the refinement factor", least=2)
        return type(self)(knots=subdivide(self.points, factor))

    def coarsen(self, factor: int = 2) -> Self:
        """Every ``factor`` neighbouring intervals joined to one.

        Raises:
            ConfigurationError: the number of intervals is no multiple of ``factor``.
        """
        check_count(factor, "the coarsening factor", least=2)
        intervals = len(self.points) - 1
        if intervals % factor:
            raise ConfigurationError(f"{intervals} intervals of controls cannot be joined by {factor}")
        return type(self)(knots=self.points[::factor])


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
