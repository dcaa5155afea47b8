"""Where a training runs."""

from dataclasses import dataclass
from typing import Literal

from dynamicblocks.times import check_count

MOST_PROCESSES = 1_000
"""That read files: more than any machine has cores for."""


@dataclass(frozen=True)
class HardwareConfig:
    """Where the training runs; see Lightning Fabric. Choices left ``auto`` are made at its start and recorded.

    They follow from the processor, the network and the number of steps, so equal commands give equal weights. With
    ``fast`` they are measured instead, and then depend on what else the machine does.

    Args:
        accelerator: auto, cpu, cuda (gpu), mps, ...
        devices: how many of them; each is a process.
        strategy: auto or ddp (data parallel).
        precision: auto, 32-true, bf16-mixed, 16-mixed, 64-true, ...
        compile: whether to compile the network (auto: in trainings of much work, where a compiler is there).
        channels_last: whether images are stored channels last.
        workers: processes that read files; what is read does not depend on it. Data in memory need none.
        fast: whether to measure what is fastest rather than follow the rules, in long trainings of one process. Two
            such trainings need not come to the same weights. The flag --fast is short for it.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: bool | Literal["auto"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    workers: int = 0
    fast: bool = False

    def __post_init__(self) -> None:
        check_count(self.devices, "hardware.devices")
        check_count(self.workers, "hardware.workers", least=0, most=MOST_PROCESSES)
