"""Which batch of a training belongs to which step of the optimiser, and at which learning rate."""

import math
from dataclasses import dataclass

from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.optimizer import learning_rate


@dataclass(frozen=True)
class Timetable:
    """The batches of a training: a step of training is one of them, a step of the optimiser a group of them.

    Args:
        config: epochs, groups, levels and schedule.
        batches: in an epoch.

    >>> from dynamicblocks.training import OptimizerConfig
    >>> plan = Timetable(TrainConfig(epochs=3, optimizer=OptimizerConfig(accumulate=4)), batches=10)
    >>> plan.total, plan.updates(plan.total), plan.group(epoch=0, step=9)
    (30, 9, (1, 2))
    """

    config: TrainConfig
    batches: int

    @property
    def total(self) -> int:
        """Batches of the whole training."""
        planned = self.config.epochs * self.batches
        return min(planned, self.config.max_steps or planned)

    def before(self, epoch: int) -> int:
        """Batches before an epoch."""
        return epoch * self.batches

    def of(self, epoch: int) -> int:
        """Batches of an epoch: all, unless the training ends within it."""
        return min(self.batches, self.total - self.before(epoch))

    def updates(self, batches: int) -> int:
        """Steps of the optimiser in the first so many batches of the training; no group goes over an epoch's end."""
        epochs, rest = divmod(batches, self.batches)
        size = self.config.optimizer.accumulate
        return epochs * math.ceil(self.batches / size) + math.ceil(rest / size)

    def group(self, epoch: int, step: int) -> tuple[int, int]:
        """The place of a batch among those of its step of the optimiser, and how many these are."""
        size = self.config.optimizer.accumulate
        place = step % size
        return place, min(size, self.of(epoch) - (step - place))

    def checkpoint_due(self, epoch: int, step: int) -> bool:
        """Whether one is due after a batch: only between groups, for gradients are not stored."""
        every = self.config.checkpoint_steps
        place, size = self.group(epoch, step)
        return every is not None and place + 1 == size and (step + 1) // every > (step - place) // every

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of the step of the optimiser that a batch belongs to, in the schedule of its level."""
        level = self.config.level(epoch)
        begin = self.updates(self.before(level.start))
        length = self.updates(min(self.before(level.stop), self.total)) - begin
        first = self.before(epoch) + step - step % self.config.optimizer.accumulate
        return learning_rate(self.config.optimizer, self.updates(first) - begin, length, epoch - level.start)
