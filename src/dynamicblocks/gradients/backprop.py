"""Plain backpropagation through every step."""

from dataclasses import dataclass

from dynamicblocks.gradients.base import Gradient, gradients
from dynamicblocks.marching import FixedMarch


@gradients.register("backprop")
@dataclass(frozen=True)
class Backprop(Gradient):
    """Keep what every stage of every step needs: exact, fastest, memory grows with the number of stages."""

    def advance(self, march: FixedMarch, carry: object, first: int, last: int) -> object:
        return march.advance(carry, first, last)
