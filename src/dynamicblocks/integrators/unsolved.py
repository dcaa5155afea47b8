"""Equations of a step that were not solved, and who is told."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.errors import SolverError
from dynamicblocks.integrators.newton_krylov import Residual, Rows


@dataclass(frozen=True)
class Unsolved:
    """An equation of a step to which no solution was found.

    Args:
        method: of the step.
        residual: what is left of the equation, as a share of the increment that it is for; not a number where values
            are not finite.
        values: which are not finite, in words.
    """

    method: str
    residual: float
    values: str = ""

    @property
    def finite(self) -> bool:
        """Whether a solution is missing, rather than numbers."""
        return math.isfinite(self.residual)

    def __str__(self) -> str:
        if not self.finite:
            return f"non-finite values in a stage of {self.method}: {self.values or 'the field is not finite there'}"
        return (
            f"a stage of {self.method} did not converge: {self.residual:.1e} of the increment is left of its equation, "
            "which may have no solution. Take shorter steps, or allow more iterations (max_iters)"
        )

    @property
    def warning(self) -> str:
        """What is said where the step is taken all the same, beginning as torchdiffeq does."""
        words = str(self)
        return f"Functional iteration did not converge. Solution may be incorrect. {words[0].upper()}{words[1:]}"


class StageError(SolverError):
    """A step that cannot be made, for an equation of it was not solved."""

    def __init__(self, left: Unsolved) -> None:
        super().__init__(str(left))
        self.left = left


def tell(stage: object, left: Unsolved) -> None:
    """Tell the solve to which a stage belongs, which goes on or raises an error.

    Where the stage is a function of the caller's, values that are not finite are a :class:`StageError`, and the rest is
    a warning.
    """
    told: Callable[[Unsolved], None] | None = getattr(stage, "unsolved", None)
    if told is not None:
        told(left)
    elif left.finite:
        warnings.warn(left.warning, stacklevel=4)
    else:
        raise StageError(left)


def unsolved(method: str, residual: Residual, root: Tensor, known: Tensor, layout: Rows, count: int = 1) -> Unsolved:
    """What is known of an equation r(z) = 0 whose ``root`` is none; the worst of its rows.

    Args:
        method: of the step.
        residual: r.
        root: what was found, of shape (rows, n).
        known: what z is added to.
        layout: of the states in a row, so many as ``count``.
    """
    with torch.no_grad():
        values = where_not_finite(known)
        if values:
            return Unsolved(method, math.nan, values)
        r = residual(root)
        # No squares, which overflow before the numbers do.
        size = torch.maximum(root.abs().amax(1), (root - r).abs().amax(1))
        left = r.abs().amax(1)
        share = torch.where(left == 0, 0, left / size).max().item()
        values = "" if math.isfinite(share) else _first_of(layout.unpack(r, count))
    return Unsolved(method, share, values)


def _first_of(states: list[Tensor]) -> str:
    return next((words for words in map(where_not_finite, states) if words), "")


def where_not_finite(y: Tensor) -> str:
    """The first entry that is NaN or infinite, in words; empty if all are finite."""
    wrong = (~torch.isfinite(y)).nonzero()
    if not len(wrong):
        return ""
    place = tuple(wrong[0].tolist())
    return f"{len(wrong)} of {y.numel()} entries are not finite, the first at {list(place)}: {y[place].item()}"
