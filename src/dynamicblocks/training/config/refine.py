"""When depth grows."""

from collections.abc import Sequence
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
        restart: whether each of those epochs begins a level with a schedule of its own (multi-level training): warm-up,
            cosine, line, xexp and decay_epochs count from there.
    """

    epochs: tuple[int, ...] = ()
    factor: int = 2
    variance: float = 0.0
    restart: bool = False

    def __post_init__(self) -> None:
        check_epochs(self.epochs, "refine.epochs")
        check_count(self.factor, "refine.factor", least=2)
        check_amount(self.variance, "refine.variance")


def check_epochs(epochs: Sequence[int], name: str) -> None:
    """Raise unless these are epochs before which something can change: increasing, from 1 on."""
    for epoch in epochs:
        check_count(epoch, name)
    if list(epochs) != sorted(set(epochs)):
        raise ConfigurationError(f"{name} must increase, got {list(epochs)}")
