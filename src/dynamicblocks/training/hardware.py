"""Devices, precision and random numbers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.double import DoublePrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.config import HardwareConfig, TrainConfig
from dynamicblocks.training.task import Place

DOUBLE = "64-true"
"""The precision in which everything is float64."""


class DoubleKept(DoublePrecision):
    """Weights, inputs and outputs in float64; Fabric's own rounds what a network gives, and so a loss, to float32."""

    def convert_output(self, data: Any) -> Any:
        return data


def make_fabric(config: HardwareConfig) -> Fabric:
    """Lightning Fabric on the hardware asked for.

    Raises:
        ConfigurationError: the device is not there, or the choices do not go together.
    """
    double = config.precision == DOUBLE
    try:
        with _without_notes():
            fabric = Fabric(
                accelerator=config.accelerator,
                devices=config.devices,
                strategy=config.strategy,
                precision=None if double else config.precision,  # type: ignore[arg-type]
                plugins=DoubleKept() if double else None,
            )
    except (MisconfigurationException, ImportError, ValueError, RuntimeError) as error:
        gpus = torch.cuda.device_count()
        raise ConfigurationError(
            f"cannot use accelerator {config.accelerator!r} with {config.devices} device(s), strategy "
            f"{config.strategy!r} and precision {config.precision!r}: {error} This machine has a CPU and {gpus} CUDA "
            "device(s); --hardware.accelerator auto takes what is there"
        ) from error
    if not isinstance(fabric.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ConfigurationError(
            f"strategy {config.strategy!r} splits the weights among processes, which checkpoints do not support yet; "
            "use auto or ddp"
        )
    return fabric


@contextmanager
def _without_notes() -> Iterator[None]:
    """What Fabric tells of the precision while it is made is said by the training itself."""
    notes = logging.getLogger("lightning_fabric.utilities.rank_zero")
    level = notes.level
    notes.setLevel(logging.WARNING)
    try:
        yield
    finally:
        notes.setLevel(level)


def make_place(config: TrainConfig, fabric: Fabric) -> Place:
    """Where a training needs its batches."""
    return Place(
        device=fabric.device,
        dtype=torch.float64 if config.hardware.precision == DOUBLE else torch.float32,
        channels_last=config.hardware.channels_last is True,
        seed=config.seed,
        workers=config.hardware.workers,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )


def make_sums(count: int, device: torch.device) -> Tensor:
    """Zeros to add to: in float64, which counts pixels to the last one, where the device has it."""
    return torch.zeros(count, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)


def over_processes(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes; ``values`` itself is left as it is."""
    return torch.as_tensor(fabric.all_reduce(values.clone(), reduce_op="sum"))


def random_state() -> dict[str, Any]:
    """The states of torch's global random generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the draws of :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
