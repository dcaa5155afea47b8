"""Precision, memory format and compilation, chosen by a short measurement on the network and images at hand."""

import copy
import math
import shutil
import sysconfig
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.training.config import HardwareConfig, TrainConfig
from dynamicblocks.training.hardware import make_fabric, make_place, random_state, set_random_state
from dynamicblocks.training.task import Task

# A training shorter than this (seconds) is not worth measuring: it stays in float32 and the ordinary layout.
WORTH_MEASURING = 60.0
# Compiling takes about a minute, so it must have ten times that to pay off.
WORTH_COMPILING = 600.0
# Another precision or layout must be this much faster to be taken.
CLEARLY_FASTER = 1.05
# Largest relative difference of the first loss under bfloat16.
SAFE_DIFFERENCE = 0.05
REPEATS = 3


@dataclass(frozen=True)
class Measurement:
    """Seconds of a training step and the first loss, under one precision and memory format."""

    precision: str
    channels_last: bool
    seconds: float
    loss: float


def measure(task: Task[Any], net: nn.Module, batch: Any, precision: str, channels_last: bool) -> Measurement:
    """Time forward and backward passes of a copy of ``net``; the least of a few, after a warm-up."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    trial = copy.deepcopy(net).to(memory_format=memory_format).train()  # type: ignore[call-overload]
    batch = _formatted(batch, memory_format)
    device = task.inputs(batch).device.type
    times, losses = [], []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss, _ = task.loss(trial, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return Measurement(precision, channels_last, min(times[1:]), losses[0])


def can_compile() -> bool:
    """Whether this machine has what torch.compile needs: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")) and headers.exists()


def _formatted(batch: Any, memory_format: torch.memory_format) -> Any:
    """A batch whose images are stored in a memory format."""
    if isinstance(batch, Tensor):
        return batch.contiguous(memory_format=memory_format) if batch.ndim == 4 else batch
    return type(batch)(_formatted(each, memory_format) for each in batch) if isinstance(batch, (tuple, list)) else batch


def choose(
    task: Task[Any], hardware: HardwareConfig, net: nn.Module, batch: Any, steps: int
) -> tuple[HardwareConfig, list[Measurement]]:
    """Every ``auto`` replaced by what is fastest and safe for ``steps`` training steps, and what was measured.

    Precision and layout are tried on one real batch. bfloat16 is safe where its first loss is finite and agrees with
    float32's. With several processes nothing is measured, for they might not agree.
    """
    open_precision, open_layout = hardware.precision == "auto", hardware.channels_last == "auto"
    fixed = replace(
        hardware,
        precision="32-true" if open_precision else hardware.precision,
        channels_last=False if open_layout else hardware.channels_last,
        compile=False if hardware.compile == "auto" else hardware.compile,
    )
    if hardware == fixed or hardware.devices > 1 or fixed.precision not in ("32-true", "bf16-mixed"):
        return fixed, []
    plain = measure(task, net, batch, fixed.precision, bool(fixed.channels_last))
    if plain.seconds * steps < WORTH_MEASURING:
        return fixed, [plain]
    found = [plain]
    for precision in ("32-true", "bf16-mixed") if open_precision else (fixed.precision,):
        for layout in (False, True) if open_layout else (bool(fixed.channels_last),):
            if (precision, layout) != (plain.precision, plain.channels_last):
                found.append(measure(task, net, batch, precision, layout))
    safe = [m for m in found if math.isfinite(m.loss) and abs(m.loss - plain.loss) <= SAFE_DIFFERENCE * plain.loss]
    best = min(safe, key=lambda m: m.seconds, default=plain)
    if best.seconds * CLEARLY_FASTER > plain.seconds:
        best = plain
    compiled = best.seconds * steps > WORTH_COMPILING and can_compile() if hardware.compile == "auto" else fixed.compile
    return replace(fixed, precision=best.precision, channels_last=best.channels_last, compile=compiled), found


def measured_config(task: Task[Any], config: TrainConfig, net: nn.Module) -> tuple[TrainConfig, list[Measurement]]:
    """The configuration with every ``auto`` settled on the first batch of the training.

    Random draws go on as if nothing had been measured.
    """
    hardware = config.hardware
    if "auto" not in (hardware.precision, hardware.channels_last, hardware.compile):
        return config, []
    precision = "32-true" if hardware.precision == "auto" else hardware.precision
    fabric = make_fabric(replace(hardware, precision=precision))
    batches = task.batches("train", make_place(config, fabric))
    batch = next(batches.training(0))
    planned = config.epochs * batches.steps
    state = random_state()
    found, measured = choose(task, hardware, net.to(fabric.device), batch, min(planned, config.max_steps or planned))
    set_random_state(state)
    return replace(config, hardware=found), measured
