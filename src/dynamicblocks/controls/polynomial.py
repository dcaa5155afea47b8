"""Weights that are one polynomial over the whole span, given by its values at good nodes."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np

from dynamicblocks.controls.alignment import Location
from dynamicblocks.controls.basis import Terms, bases
from dynamicblocks.controls.spectral import Spectral

# A place nearer to a node than this share of the span differs from it by rounding.
SAME_NODE = 1e-12


@dataclass(frozen=True)
class Polynomial(Spectral):
    """theta(t) = sum_k l_k(t) theta_k with l_k(t_j) = 1 if j = k and else 0: degree K - 1 for K controls.

    The controls are *values* of theta, at the nodes t_k of a good interpolation, and not coefficients of orthogonal
    polynomials. The functions are the same, but every control is a layer like any other, with the scale that layers
    are initialised with and statistics of its own. Between the nodes some weights are negative.
    """

    kind = "a polynomial"
    most = 1_000  # their nodes are the eigenvalues of a matrix of that size

    # Derived from the size: the nodes as fractions of the span, and their barycentric weights.
    _fractions: tuple[float, ...] = field(default=(), init=False, repr=False, compare=False)
    _weights: tuple[float, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            nodes, weights = self.interpolation(self.size)
            object.__setattr__(self, "_fractions", tuple((1.0 + node) / 2 for node in nodes))
            object.__setattr__(self, "_weights", tuple(weights))

    @staticmethod
    @abstractmethod
    def interpolation(size: int) -> tuple[list[float], list[float]]:
        """So many nodes in [-1, 1], increasing, and their barycentric weights, up to a common factor."""

    @property
    def degree(self) -> int:
        return self.count - 1

    @property
    def nodes(self) -> tuple[Location, ...]:
        return tuple(Location(0, fraction) for fraction in self._fractions)

    def terms(self, interval: int, fraction: float) -> Terms:
        for index, node in enumerate(self._fractions):
            if abs(fraction - node) <= SAME_NODE:
                return ((index, 1.0),)
        # The barycentric formula, stable also beside a node (Berrut & Trefethen 2004).
        parts = [weight / (fraction - node) for node, weight in zip(self._fractions, self._weights, strict=True)]
        total = sum(parts)
        return tuple((index, part / total) for index, part in enumerate(parts))


@bases.register("legendre")
class Legendre(Polynomial):
    """The polynomial of degree K - 1 through K values at the Gauss-Legendre nodes, all inside the span.

    The space of the first K Legendre polynomials; for the reason why the controls are values see :class:`Polynomial`.

    >>> basis = Legendre(3, knots=(0, 2))
    >>> [round(basis.time(node), 4) for node in basis.nodes], basis.terms(0, 0.5)
    ([0.2254, 1.0, 1.7746], ((1, 1.0),))
    """

    name = "legendre"

    @staticmethod
    def interpolation(size: int) -> tuple[list[float], list[float]]:
        nodes, quadrature = np.polynomial.legendre.leggauss(size)
        weights = (-1.0) ** np.arange(size) * np.sqrt((1 - nodes**2) * quadrature)
        return nodes.tolist(), weights.tolist()


@bases.register("chebyshev")
class Chebyshev(Polynomial):
    """The polynomial of degree K - 1 through K values at the Chebyshev points of the second kind.

    They are the extrema of the Chebyshev polynomial of degree K - 1 and include both ends of the span; a single one
    stands in the middle. The space of the first K Chebyshev polynomials; for the reason why the controls are values
    see :class:`Polynomial`.

    >>> basis = Chebyshev(5, knots=(0, 2))
    >>> [round(basis.time(node), 4) for node in basis.nodes], basis.terms(0, 0.0)
    ([0.0, 0.2929, 1.0, 1.7071, 2.0], ((0, 1.0),))
    """

    name = "chebyshev"

    @staticmethod
    def interpolation(size: int) -> tuple[list[float], list[float]]:
        if size == 1:
            return [0.0], [1.0]
        # -cos(pi k / (K - 1)), written as a sine: symmetric to the last bit.
        nodes = [math.sin(math.pi * (2 * k - size + 1) / (2 * (size - 1))) for k in range(size)]
        weights = [(-1.0) ** k * (0.5 if k in (0, size - 1) else 1.0) for k in range(size)]
        return nodes, weights
