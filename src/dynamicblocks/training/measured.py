"""Precision, memory format and compilation, chosen by a short measurement on the network and data at hand: --fast."""

import copy
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.hardware_rules import HALF, PLAIN, WORTH_COMPILING, can_compile, inputs_of, is_planar
from dynamicblocks.training.task import Task

# A training shorter than this (seconds) is not worth measuring: it follows the rules.
WORTH_MEASURING = 60.0
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
    device = next(net.parameters(), torch.empty(0)).device
    times, losses = [], []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == HALF):
            loss, _ = task.loss(trial, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return Measurement(precision, channels_last, min(times[1:]), losses[0])


def _formatted(batch: Any, memory_format: torch.memory_format) -> Any:
    """A batch whose images are stored in a memory format."""
    if isinstance(batch, Tensor):
        return batch.contiguous(memory_format=memory_format) if batch.ndim == 4 else batch
    if not isinstance(batch, (tuple, list)):
        return batch
    entries = [_formatted(each, memory_format) for each in batch]
    return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)


def choose(
    task: Task[Any], hardware: HardwareConfig, net: nn.Module, batch: Any, steps: int
) -> tuple[HardwareConfig, list[Measurement]]:
    """Every ``auto`` replaced by what is fastest and safe for ``steps`` training steps, and what was measured.

    Precision and layout are tried on one real batch, bfloat16 where the task bears it: it is safe where its first loss
    is finite and agrees with float32's. In a short training no more is measured than that it is short. With several
    processes nothing is measured, for they might not agree.
    """
    open_precision, open_layout = hardware.precision == "auto", hardware.channels_last == "auto"
    fixed = replace(
        hardware,
        precision=PLAIN if open_precision else hardware.precision,
        channels_last=False if open_layout else hardware.channels_last,
        compile=False if hardware.compile == "auto" else hardware.compile,
    )
    if hardware == fixed or hardware.devices > 1 or fixed.precision not in (PLAIN, HALF):
        return fixed, []
    plain = measure(task, net, batch, fixed.precision, bool(fixed.channels_last))
    if plain.seconds * steps < WORTH_MEASURING:
        return fixed, [plain]
    precisions = (PLAIN, HALF) if open_precision and task.bears_half else (fixed.precision,)
    layouts = (False, True) if open_layout and is_planar(net, inputs_of(task, batch)) else (bool(fixed.channels_last),)
    sides = [(precision, layout) for precision in precisions for layout in layouts]
    others = [side for side in sides if side != (plain.precision, plain.channels_last)]
    found = [plain, *(measure(task, net, batch, *side) for side in others)]
    safe = [m for m in found if math.isfinite(m.loss) and abs(m.loss - plain.loss) <= SAFE_DIFFERENCE * abs(plain.loss)]
    best = min(safe, key=lambda m: m.seconds, default=plain)
    if best.seconds * CLEARLY_FASTER > plain.seconds:
        best = plain
    compiled = best.seconds * steps > WORTH_COMPILING and can_compile() if hardware.compile == "auto" else fixed.compile
    return replace(fixed, precision=best.precision, channels_last=best.channels_last, compile=compiled), found
