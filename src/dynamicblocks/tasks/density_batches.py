"""Points as batches, each with a seed of what is drawn in it."""

from typing import NamedTuple

import torch
from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.draws import generator
from dynamicblocks.tasks.rounds import Moment, Rounds
from dynamicblocks.training.task import Place

# What tells the draws of an evaluation from those of all epochs.
EVALUATION = 2**31 - 1
MOST_SEEDS = 2**62


class PointBatch(NamedTuple):
    """Points as the network sees them, in data units.

    Args:
        points: (n, *shape).
        context: (n, c), of no columns where there is none.
        seed: (), int64, on the CPU: of noise, times, probes and dequantisation of this batch.
    """

    points: Tensor
    context: Tensor
    seed: Tensor

    def select(self, rows: Tensor | slice) -> "PointBatch":
        """Some of the points."""
        return self._replace(points=self.points[rows], context=self.context[rows])


def point_batches(
    of: PointSet, batch_size: int, steps: int, place: Place, evaluation_size: int | None
) -> Rounds[PointBatch]:
    """Batches of points on the device.

    What is drawn in a step of training follows from (seed, epoch, step), as which points it sees; in evaluation from
    the number of the batch, so that figures can be told again.
    """
    points = of.points.to(place.device, place.dtype)
    context = torch.zeros(len(of), 0) if of.context is None else of.context
    context = context.to(place.device, place.dtype)

    def make(rows: Tensor, moment: Moment) -> PointBatch:
        there = rows.to(place.device)
        return PointBatch(points[there], context[there], _seed(place, moment))

    return Rounds(len(of), make, batch_size, steps, place, evaluation_size)


def _seed(place: Place, moment: Moment) -> Tensor:
    # An evaluation draws the same whatever the training was seeded with.
    begin = (0, EVALUATION) if moment.epoch is None else (place.seed, moment.epoch)
    return torch.randint(MOST_SEEDS, (), generator=generator(*begin, moment.step, place.rank))
