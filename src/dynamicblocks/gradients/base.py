"""What a gradient mode is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.marching import FixedMarch
from dynamicblocks.registry import Registry


class Gradient(ABC):
    """A way to run the loop such that its result can be differentiated."""

    def check(self, layers: Iterable[nn.Module]) -> None:  # noqa: B027  (most modes accept every layer)
        """Raise a ConfigurationError if this mode cannot differentiate these layers."""

    @abstractmethod
    def advance(self, march: FixedMarch, carry: object, first: int, last: int) -> object:
        """The carry after the steps ``first, ..., last - 1``."""

    def integrate(self, march: FixedMarch, y: Tensor) -> Tensor:
        """The state at the end of the grid."""
        return march.state(self.advance(march, march.start(y), 0, march.steps))

    def trajectory(self, march: FixedMarch, y: Tensor) -> list[Tensor]:
        """The states at every point of the grid."""
        carry: object = march.start(y)
        states = [march.state(carry)]
        for step in range(march.steps):
            carry = self.advance(march, carry, step, step + 1)
            states.append(march.state(carry))
        return states


gradients: Registry[Gradient] = Registry("gradient mode")


def as_gradient(gradient: Gradient | str) -> Gradient:
    """A gradient mode, or the one that a string such as ``"checkpoint(segments=4)"`` names."""
    if isinstance(gradient, Gradient):
        return gradient
    if isinstance(gradient, str):
        return gradients.create(gradient)
    raise ConfigurationError(f"gradient must be a gradient mode or the name of one, got {gradient!r}")
