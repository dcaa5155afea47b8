"""When depth grows."""

from dataclasses import dataclass

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_amount, check_count


@dataclass(frozen=True)
class RefineConfig:
    """Depth that grows while the network trains.

    Args:
        epochs: before each of these (counted from 0), the controls and steps of every block are multiplied.
        factor: by how much.
        variance: relative standard deviation of noise on the weights that are copied, so that the copies differ.
    """

    epochs: tuple[int, ...] = ()
    factor: int = 2
    variance: float = 0.0

    def __post_init__(self) -> None:
        for epoch in self.epochs:
            check_count(epoch, "refine.epochs")
        if list(self.epochs) != sorted(set(self.epochs)):
            raise ConfigurationError(f"refine.epochs must increase, got {list(self.epochs)}")
        check_count(self.factor, "refine.factor", least=2)
        check_amount(self.variance, "refine.variance")
