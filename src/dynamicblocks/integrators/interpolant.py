"""States between the ends of a step."""

from collections.abc import Sequence

from torch import Tensor

Row = tuple[float | Tensor, ...]
"""Weights of the parts of a step; tensors where gradients with respect to the time are wanted."""


def hermite_weights(x: float | Tensor, *, middle: bool) -> Row:
    """Weights of y0, y1, h f0, h f1 (and of the state half-way) at the fraction ``x`` of a step.

    The polynomial has the states and slopes of the step at both ends: of degree three, or of degree four through the
    state half-way. At 0 and 1 it is the state, to the last bit.
    """
    if not isinstance(x, Tensor) and x in (0.0, 1.0):
        return (1.0 - x, x, 0.0, 0.0, 0.0)[: 5 if middle else 4]
    if not middle:
        return (1 + x * x * (2 * x - 3), x * x * (3 - 2 * x), x * (1 + x * (x - 2)), x * x * (x - 1))
    return (
        1 + x * x * (-11 + x * (18 - 8 * x)),
        x * x * (-5 + x * (14 - 8 * x)),
        x * (1 + x * (-4 + x * (5 - 2 * x))),
        x * x * (1 + x * (-3 + 2 * x)),
        x * x * (16 + x * (-32 + 16 * x)),
    )


def polynomial(coefficients: Sequence[float], x: float | Tensor) -> float | Tensor:
    """c_1 x + c_2 x^2 + ..."""
    total: float | Tensor = 0.0
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * x
    return total


def combine(row: Row, parts: Sequence[Tensor]) -> Tensor:
    """The sum of ``parts`` with weights; parts of weight zero are left out."""
    total: Tensor | None = None
    for weight, part in zip(row, parts, strict=True):
        if isinstance(weight, Tensor):
            term = weight * part
            total = term if total is None else total + term
        elif weight != 0:
            total = (part if weight == 1 else part * weight) if total is None else total.add(part, alpha=weight)
    if total is None:
        raise ValueError("all weights are zero")
    return total
