"""When blocks get other numbers of controls and steps."""

from dataclasses import dataclass

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import MAX_BLOCK_STEPS, MAX_CONTROLS, check_count, check_steps
from dynamicblocks.training.config.refine import check_epochs


@dataclass(frozen=True)
class RediscretiseConfig:
    """Numbers of control intervals (tTheta) and of time steps (tY) that change, up or down, while the network trains.

    Args:
        epochs: before each of these (counted from 0) every block is discretised anew, for example [10,20].
        controls: from each of those epochs on, so many equal intervals between the knots of the weights in time (of
            polynomials: controls), for example [4,8]. The weights are projected, exactly where the new basis contains
            the old one; momentum likewise. Left out, controls stay as they are.
        steps: from each of those epochs on, so many equal steps of every block. Left out, steps stay as they are.
        restart: whether each of those epochs begins a level with a schedule of its own: warm-up, cosine, line, xexp
            and decay_epochs count from there.
    """

    epochs: tuple[int, ...] = ()
    controls: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    restart: bool = False

    def __post_init__(self) -> None:
        check_epochs(self.epochs, "rediscretise.epochs")
        for count in self.controls:
            check_count(count, "rediscretise.controls", most=MAX_CONTROLS)
        for count in self.steps:
            check_steps(count, "rediscretise.steps", MAX_BLOCK_STEPS)
        for name, values in (("controls", self.controls), ("steps", self.steps)):
            if values and len(values) != len(self.epochs):
                raise ConfigurationError(
                    f"rediscretise.{name} needs a number for each of rediscretise.epochs, got {list(values)} for "
                    f"{list(self.epochs)}"
                )
        if self.epochs and not (self.controls or self.steps):
            raise ConfigurationError("rediscretise.epochs needs rediscretise.controls, rediscretise.steps or both")

    def numbers(self, epoch: int) -> tuple[int | None, int | None]:
        """Control intervals and steps from one of the epochs on; None for those that stay."""
        place = self.epochs.index(epoch)
        return self.controls[place] if self.controls else None, self.steps[place] if self.steps else None
