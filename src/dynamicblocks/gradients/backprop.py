"""Plain backpropagation through every step."""

from dataclasses import dataclass

from torch import Tensor

from dynamicblocks.gradients.gradient import Course, Gradient, gradients
from dynamicblocks.solving.outputs import Outputs


@gradients.register("backprop")
@dataclass(frozen=True)
class Backprop(Gradient):
    """Keep what every stage of every step needs: exact, fastest, memory grows with the number of stages."""

    def run(self, course: Course, y: Tensor) -> Outputs:
        return course.follow(y)
