"""A task of one's own: the next value of a series, from those before it.

Example: dynamicblocks train --task examples/own_task.py:NextValue --epochs 10 --optimizer.lr 0.02 --past 8
"""

import tempfile
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.training import LOSS, Figure, Task, TensorBatches


@dataclass(frozen=True)
class NextValue(Task):
    """The next value of Van der Pol's oscillator.

    Args:
        past: values that are looked at.
        batch_size: windows in a step of training.
    """

    unit, figures, sums = "windows", (LOSS, Figure("relative_error", ".2%")), ("windows", "error", "size")
    past: int = 6
    batch_size: int = 64

    @cached_property
    def series(self):  # (series, times), the same whatever the seed of a training
        start = 4 * torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) - 2
        field = lambda t, y: torch.stack([y[:, 1], (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], dim=1)  # noqa: E731
        return db.odeint(field, start, torch.linspace(0, 12, 61))[:, :, 0].T

    def load(self):
        return f"{len(self.series)} series: 40 to train on, 10 to choose by, 10 for the test"

    def build(self):
        block = db.DynamicBlock(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), "linear(3)", 4, "midpoint")
        return nn.Sequential(nn.Linear(self.past, 8), block, nn.Linear(8, 1))

    def batches(self, split, place):
        first, last = {"train": (0, 40), "validation": (40, 50), "test": (50, 60)}[split]
        windows = self.series[first:last].unfold(1, self.past + 1, 1).flatten(0, 1)
        return TensorBatches((windows[:, :-1], windows[:, -1:]), self.batch_size, place)

    def loss(self, net, batch):
        past, following = batch
        error = (net(past).float() - following).square().sum()
        return error / len(past), torch.stack([error.new_full((), len(past)), error, following.square().sum()])

    def measured(self, sums):
        return {"loss": sums["error"] / sums["windows"], "relative_error": (sums["error"] / sums["size"]) ** 0.5}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(["train", f"--task={__file__}:NextValue", "--epochs=4", "--optimizer.lr=0.02", f"--output={folder}"])
