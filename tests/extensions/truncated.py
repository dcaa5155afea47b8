"""Truncated backpropagation."""

from dataclasses import dataclass

import torch

from dynamicblocks.gradients import Gradient


@dataclass(frozen=True)
class Truncated(Gradient):
    """Gradients of the last ``kept`` steps; what comes before them is a constant."""

    kept: int = 1

    def advance(self, course, carry, first, last):
        begin = min(max(first, course.steps - self.kept), last)
        with torch.no_grad():
            carry = course.advance(carry, first, begin)
        return course.advance(carry, begin, last)
