"""Where a training runs."""

from dataclasses import dataclass
from typing import Literal

from dynamicblocks.times import check_count


@dataclass(frozen=True)
class HardwareConfig:
    """Where the training runs; see Lightning Fabric. Choices left ``auto`` are measured at its start and recorded.

    Args:
        accelerator: auto, cpu, cuda (gpu), mps, ...
        devices: how many of them; each is a process.
        strategy: auto or ddp (data parallel).
        precision: auto, 32-true, bf16-mixed, 16-mixed, 64-true, ...
        compile: whether to compile the network (auto: on long trainings where a compiler is there).
        channels_last: whether images are stored channels last.
        workers: processes that read files; what is read does not depend on it. Data in memory need none.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: bool | Literal["auto"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        check_count(self.devices, "hardware.devices")
        check_count(self.workers, "hardware.workers", least=0)
