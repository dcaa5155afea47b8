"""Whether a training is to end because a signal asked for it: one answer, after the same step, in every process."""

import torch
from lightning_fabric import Fabric

from dynamicblocks.interruption import check, requested
from dynamicblocks.training.timetable import Timetable

# Between two of these, where processes that wait for no device are many steps ahead of it, none asks the others.
STEPS_TO_AGREE = 8


def asked_to_end(fabric: Fabric) -> int:
    """The signal that any of the processes, which all call this together, was sent; 0 if there is none."""
    asked = requested() or 0
    if fabric.world_size == 1:
        return asked
    found = torch.tensor(float(asked), device=fabric.device)
    return round(float(torch.as_tensor(fabric.all_reduce(found, reduce_op="max"))))


def asked_after(fabric: Fabric, timetable: Timetable, epoch: int, step: int) -> int:
    """The signal that asked to end after this batch, 0 if none did.

    Only between groups of batches, for gradients are not stored.
    """
    place, size = timetable.group(epoch, step)
    if place + 1 < size:
        return 0
    # What processes say to each other waits for the device; all of them count the same steps.
    waits = fabric.world_size > 1 and fabric.device.type != "cpu"
    if waits and timetable.updates(timetable.before(epoch) + step + 1) % STEPS_TO_AGREE:
        return 0
    return asked_to_end(fabric)


def check_alone(fabric: Fabric) -> None:
    """End here if a signal asked for it; of several processes none ends before the others do."""
    if fabric.world_size == 1:
        check()
