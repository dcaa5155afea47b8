"""What was left open about the hardware, settled once at the start of a training: by rules, or by measurement."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from dynamicblocks.network import evaluations_of
from dynamicblocks.training.config import HardwareConfig, TrainConfig
from dynamicblocks.training.hardware import make_fabric, make_place, random_state, set_random_state
from dynamicblocks.training.hardware_rules import PLAIN, Chosen, inputs_of, settle
from dynamicblocks.training.measured import Measurement, choose
from dynamicblocks.training.task import Task, batches_of, first_of
from dynamicblocks.training.work import MANY_EVALUATIONS, Work, check_states, count_work

OPEN = ("precision", "channels_last", "compile")


@dataclass(frozen=True)
class Choices:
    """What was settled, for the record of a run.

    Args:
        chosen: each choice that was open.
        work: of a training step, where it was counted.
        measured: what was measured.
    """

    chosen: Mapping[str, Chosen]
    work: Work | None = None
    measured: Sequence[Measurement] = ()

    def as_record(self) -> dict[str, Any]:
        """Plain values, for run.json."""
        return {
            "chosen": {name: asdict(each) for name, each in self.chosen.items()},
            "counted_step": None if self.work is None else asdict(self.work),
            "measured_steps": [asdict(each) for each in self.measured],
        }

    def __str__(self) -> str:
        """One line; empty where nothing was open."""
        each = (f"{_said(name, chosen.value)} ({chosen.why})" for name, chosen in self.chosen.items())
        return f"Chosen: {', '.join(each)}" if self.chosen else ""


def _said(name: str, value: str | bool) -> str:
    if name == "precision":
        return f"precision {value}"
    return (
        ("channels last" if value else "channels first")
        if name == "channels_last"
        else ("compiled" if value else "not compiled")
    )


def settled(task: Task[Any], config: TrainConfig, net: nn.Module) -> tuple[TrainConfig, Choices]:
    """The configuration with every ``auto`` settled on the first batch of the training, and what that came to.

    All processes look at the same share of the batch, and random draws go on as if nothing had been tried.
    """
    hardware = config.hardware
    still_open = [name for name in OPEN if getattr(hardware, name) == "auto"]
    many = evaluations_of(net) > MANY_EVALUATIONS
    if not still_open and not many:
        return config, Choices({})
    fabric = make_fabric(replace(hardware, precision=PLAIN if hardware.precision == "auto" else hardware.precision))
    place = replace(make_place(config, fabric), rank=0, workers=0)
    batches = batches_of(task, "train", place)
    planned = config.epochs * batches.steps
    steps = min(planned, config.max_steps or planned)
    state = random_state()
    try:
        batch = first_of(batches)
        if many and fabric.device.type == "cpu":
            check_states(task, net, batch)
        if not still_open:
            return config, Choices({})
        net.to(fabric.device)
        measured: list[Measurement] = []
        if hardware.fast:
            found, measured = choose(task, hardware, net, batch, steps)
            if len(measured) > 1:
                chosen = _as_measured(found, measured, still_open)
                return replace(config, hardware=found), Choices(chosen, measured=measured)
        work = count_work(task, net if place.dtype == torch.float32 else copy.deepcopy(net).to(place.dtype), batch)
        found, ruled = settle(
            hardware, fabric.device, net, inputs_of(task, batch), work, steps, bears_half=task.bears_half
        )
        return replace(config, hardware=found), Choices(ruled, work, measured)
    finally:
        set_random_state(state)


def _as_measured(
    found: HardwareConfig, measured: Sequence[Measurement], still_open: Sequence[str]
) -> dict[str, Chosen]:
    """What the stopwatch said."""
    taken = next(m for m in measured if (m.precision, m.channels_last) == (found.precision, found.channels_last))
    plain = f"{measured[0].seconds:.3g} s in {measured[0].precision}"
    why = f"measured, {taken.seconds:.3g} s a step" + (f"; {plain}" if taken != measured[0] else "")
    return {name: Chosen(getattr(found, name), why) for name in still_open}
