"""When convolutions get coefficients that vary over the image."""

from dataclasses import dataclass
from typing import Literal

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.surgery import Net
from dynamicblocks.times import check_count
from dynamicblocks.twisting import twist


@dataclass(frozen=True)
class TwistConfig:
    """Twisted 3x3 convolutions, in a network of any name (a twist_resnet has them without this).

    Args:
        parametrisation: of the twist: vector, independent or full; none leaves the network as it is.
        degree: of the coefficients in the coordinates of a pixel, 1 or 2.
        stages: a letter T or F for each stage of the network, such as TTTF; by default all.
        where: pattern of the names of the modules that are meant; by default all.
        epoch: before which the twist is turned on (counted from 0), at first as the same function.
    """

    parametrisation: Literal["none", "vector", "independent", "full"] = "none"
    degree: Literal[1, 2] = 1
    stages: str | None = None
    where: str | None = None
    epoch: int = 0

    def __post_init__(self) -> None:
        check_count(self.epoch, "twist.epoch", least=0)
        if self.parametrisation == "none" and (self.degree, self.stages, self.where, self.epoch) != (1, None, None, 0):
            raise ConfigurationError(
                "twist.degree, stages, where and epoch need twist.parametrisation: vector, independent or full"
            )

    def turned_on(self, epoch: int) -> bool:
        """Whether the twist begins with this epoch."""
        return self.parametrisation != "none" and self.epoch == epoch

    def twist(self, net: Net) -> Net:
        """The network with its twist."""
        return twist(net, self.where, stages=self.stages, parametrisation=self.parametrisation, degree=self.degree)
