"""The configuration of a training, beside that of its task."""

from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Literal

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count, check_seed
from dynamicblocks.training.config.hardware import HardwareConfig
from dynamicblocks.training.config.optimizer import OptimizerConfig
from dynamicblocks.training.config.plain import plain
from dynamicblocks.training.config.rediscretise import RediscretiseConfig
from dynamicblocks.training.config.refine import RefineConfig
from dynamicblocks.training.config.twist import TwistConfig


def check_run_name(name: str) -> str:
    """Return ``name``, or raise: of a folder inside that of the runs, perhaps of one inside another."""
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ConfigurationError(
            f"run must be the name of a folder inside output, such as mine or group/mine, got {name!r}; where runs lie "
            "is said by output"
        )
    return name


@dataclass(frozen=True)
class TrainConfig:
    """A training, whatever its task.

    Args:
        optimizer: optimiser.
        refine: depth that grows.
        rediscretise: numbers of controls and steps that change.
        twist: coefficients that vary over the image.
        hardware: device, precision, processes.
        epochs: passes over the training samples.
        keep: weights of which epoch are the result: best, that of the lowest validation loss, or last. Where the
            learning rate falls to zero and validation samples are few, the last is the better choice.
        max_steps: training steps after which to stop, whatever the epochs; None for no limit.
        seed: of initialisation, shuffling and random changes.
        checkpoint_steps: steps between checkpoints inside an epoch; each epoch ends with one in any case.
        output: folder in which the run's own folder is made.
        run: name of the run's folder; by default the date, data set and model.
    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    rediscretise: RediscretiseConfig = field(default_factory=RediscretiseConfig)
    twist: TwistConfig = field(default_factory=TwistConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    epochs: int = 30
    keep: Literal["best", "last"] = "best"
    max_steps: int | None = None
    seed: int = 0
    checkpoint_steps: int | None = None
    output: str = "runs"
    run: str | None = None

    def __post_init__(self) -> None:
        check_count(self.epochs, "epochs")
        check_seed(self.seed, "seed")
        if self.twist.epoch >= self.epochs:
            raise ConfigurationError(
                f"twist.epoch must lie in the training, from 0 to epochs - 1 = {self.epochs - 1}, got "
                f"{self.twist.epoch}"
            )
        for name, change in (("refine", self.refine), ("rediscretise", self.rediscretise)):
            if change.epochs and change.epochs[-1] >= self.epochs:
                raise ConfigurationError(
                    f"{name}.epochs must lie in the training, from 1 to epochs - 1 = {self.epochs - 1}, got "
                    f"{list(change.epochs)}"
                )
        both = set(self.refine.epochs) & set(self.rediscretise.epochs)
        if both:
            raise ConfigurationError(
                f"refine.epochs and rediscretise.epochs both hold {sorted(both)}, and each says how many controls and "
                "steps there are from there on; leave out one of the two"
            )
        if self.run is not None:
            check_run_name(self.run)
        for name in ("checkpoint_steps", "max_steps"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)

    def level(self, epoch: int) -> range:
        """The epochs that share one run of the schedule with this one: those from a restart to the next.

        >>> TrainConfig(epochs=9, refine=RefineConfig(epochs=(3, 6), restart=True)).level(4)
        range(3, 6)
        """
        restarts = {begin for change in (self.refine, self.rediscretise) if change.restart for begin in change.epochs}
        begin = max((start for start in restarts if start <= epoch), default=0)
        return range(begin, min((start for start in restarts if start > epoch), default=self.epochs))

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, as YAML and JSON hold them."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}
