"""What error is small."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Norm = Callable[[Tensor], Tensor | float]


def rms_norm(y: Tensor) -> Tensor:
    """The root of the mean square of all entries.

    >>> rms_norm(torch.tensor([3.0, 4.0])) ** 2
    tensor(12.5000)
    """
    return torch.linalg.vector_norm(y) / math.sqrt(max(1, y.numel()))


@dataclass(frozen=True)
class Tolerance:
    """An error is small where it is at most ``atol + rtol max(|y0|, |y1|)``, in the sense of a norm.

    Args:
        rtol, atol: numbers, or tensors of the state's shape.
        norm: of the error in units of the tolerance; at most 1 is small.
    """

    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm = rms_norm

    def at_least(self, eps: float) -> "Tolerance":
        """The tolerance whose relative part a field can meet that rounds its numbers to ``eps``."""
        rtol = self.rtol
        return replace(self, rtol=rtol.clamp_min(eps) if isinstance(rtol, Tensor) else max(rtol, eps))

    def scale(self, *states: Tensor) -> Tensor:
        """The error that may be made at these states, entry by entry."""
        largest = states[0].abs()
        for state in states[1:]:
            largest = torch.maximum(largest, state.abs())
        return largest * self.rtol + self.atol

    def ratio(self, scaled: Tensor) -> float:
        """The norm of an error in units of the tolerance, as a number: the one value a step reads from the device."""
        return abs(float(self.norm(scaled)))
