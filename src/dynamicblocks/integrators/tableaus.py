"""Butcher tableaus of explicit Runge-Kutta methods, as data."""

import math
from dataclasses import InitVar, dataclass, field
from functools import partial

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.integrator import Reads
from dynamicblocks.integrators.order_conditions import check_coefficients, check_order
from dynamicblocks.layers.parts import FIELD


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method.

        k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j),    y(t + h) = y + h sum_i b_i k_i

    Args:
        name: the method's name.
        order: its order of convergence.
        a: rows of the strictly lower triangle; row i has i entries, so the first is empty.
        b: weights, of sum 1.
        check: whether the order is checked, which takes milliseconds for a high one.

    Raises:
        ConfigurationError: rows of the wrong length, weights that do not sum to one, numbers that are not finite, or
            coefficients that are not of this order.

    >>> Tableau("midpoint", order=2, a=((), (1 / 2,)), b=(0, 1)).c
    (0.0, 0.5)
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Fractions of the step at which the stages stand: row sums of a; the end of the step is met exactly."""
    check: InitVar[bool] = True
    reads: Reads = field(init=False, repr=False, compare=False)
    """What a step evaluates: the field at these fractions."""

    def __post_init__(self, check: bool) -> None:
        lengths = [len(row) for row in self.a]
        if lengths != list(range(len(self.b))):
            raise ConfigurationError(
                f"tableau {self.name!r}: an explicit method of {len(self.b)} stages has rows of length "
                f"{list(range(len(self.b)))} in a, got {lengths}"
            )
        check_coefficients(f"tableau {self.name!r}", self.order, *self.a, self.b)
        if not math.isclose(math.fsum(self.b), 1.0, abs_tol=1e-12):
            raise ConfigurationError(f"tableau {self.name!r}: the weights b must sum to 1, got {math.fsum(self.b)}")
        sums = [math.fsum(row) for row in self.a]
        c = tuple(1.0 if math.isclose(each, 1.0, abs_tol=1e-12) else each for each in sums)
        object.__setattr__(self, "c", c)
        object.__setattr__(self, "reads", tuple((each, FIELD) for each in c))
        if check:
            check_order(f"tableau {self.name!r}", self.a, self.b, self.order)


# The order conditions of the package's own coefficients are tested, and not checked on every import.
Known = partial(Tableau, check=False)

TABLEAUS = (
    Known("euler", 1, ((),), (1,)),
    Known("midpoint", 2, ((), (1 / 2,)), (0, 1)),
    Known("heun2", 2, ((), (1,)), (1 / 2, 1 / 2)),
    Known("ralston2", 2, ((), (2 / 3,)), (1 / 4, 3 / 4)),
    Known("kutta3", 3, ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
    Known("heun3", 3, ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    # Strong stability preserving: a convex combination of Euler steps (Shu & Osher 1988).
    Known("ssprk3", 3, ((), (1,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    # Kutta's 3/8 rule, which torchdiffeq calls rk4.
    Known("rk4", 4, ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    Known("rk4_classic", 4, ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
)
