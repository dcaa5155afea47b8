"""Precision, memory format and compilation by rules: what the processor has, and counted work. Never a stopwatch.

Equal commands so get equal weights. Each constant stands on a measurement in ``benchmarks/hardware_rules.py``.
"""

import os
import platform
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.config import HardwareConfig
from dynamicblocks.training.task import Task
from dynamicblocks.training.work import Work

PLAIN = "32-true"
HALF = "bf16-mixed"
# Of float32: what an operation costs whatever its size, and floating-point operations a second of convolutions; on a
# CPU of one thread. These are no figures of the processor at hand: all processors are to choose alike.
SECONDS_OF_AN_OPERATION = 30e-6
FLOPS_OF_A_THREAD = 60e9
# Of a GPU. There the rules were not measured.
FLOPS_OF_A_GPU = 1e13
# Autocast adds operations that convert numbers. It pays from so many floating-point operations in an operation on, for
# each thread: in networks of convolutions of images, which it makes faster in other ways too, and in others.
WORTH_HALF_PLANAR = 1.5e6
WORTH_HALF = 4e6
# A training shorter than this, in seconds, has nothing to gain from it, and small networks have something to lose.
WORTH_ROUNDING = 60.0
# In bfloat16 a step takes about half of its time in float32.
SPEED_OF_HALF = 2.0
# Compiling takes about a minute, so it must have ten times that to pay off.
WORTH_COMPILING = 600.0
# Of strided 1 x 1 convolutions, channels last, with fewer input channels, PyTorch 2.13 corrupts the heap (AVX2, one
# thread; seen with 4 and not with 8, 12, 16, 20).
OVERRUN = 8
# The first CUDA devices that compute in bfloat16.
CAPABLE = (8, 0)


@dataclass(frozen=True)
class Chosen:
    """A choice that was left open, what it came to, and why."""

    value: str | bool
    why: str


def settle(
    hardware: HardwareConfig,
    device: torch.device,
    net: nn.Module,
    inputs: Any,
    work: Work | None,
    steps: int,
    *,
    bears_half: bool,
) -> tuple[HardwareConfig, dict[str, Chosen]]:
    """Every ``auto`` replaced by what the rules say, and what they said.

    Args:
        hardware: as it was configured.
        device: where the training runs.
        net: the network.
        inputs: what it is called with.
        work: of a step of one process; None where it is not known.
        steps: of the whole training.
        bears_half: whether the task may be computed in half precision.
    """
    # Processes started on a machine need not be given as many threads, and all of them are to choose alike.
    threads = 1 if hardware.devices > 1 else torch.get_num_threads()
    chosen: dict[str, Chosen] = {}
    if hardware.precision == "auto":
        chosen["precision"] = precision_rule(
            device, threads, work, steps, planar=is_planar(net, inputs), bears_half=bears_half
        )
        hardware = replace(hardware, precision=str(chosen["precision"].value))
    if hardware.channels_last == "auto":
        chosen["channels_last"] = layout_rule(device, net, inputs, hardware.precision)
        hardware = replace(hardware, channels_last=bool(chosen["channels_last"].value))
    if hardware.compile == "auto":
        chosen["compile"] = compilation_rule(device, threads, work, steps, hardware.precision)
        hardware = replace(hardware, compile=bool(chosen["compile"].value))
    return hardware, chosen


def precision_rule(
    device: torch.device, threads: int, work: Work | None, steps: int, *, planar: bool, bears_half: bool
) -> Chosen:
    """bfloat16 autocast where the processor has it, each operation has enough to compute, and there are many steps."""
    units = bfloat16_units(device)
    if not bears_half:
        return Chosen(PLAIN, "the task asks for full precision")
    if not units:
        return Chosen(PLAIN, f"no bfloat16 units that are known on {device.type}")
    if work is None:
        return Chosen(PLAIN, "the work of a step could not be counted")
    # A GPU counts as many threads.
    least = (WORTH_HALF_PLANAR if planar else WORTH_HALF) * _rate(device, threads) / FLOPS_OF_A_THREAD
    count = f"{work.intensity / 1e6:.3g} MFLOP an operation"
    if work.intensity < least:
        return Chosen(PLAIN, f"only {count}")
    if _seconds(device, threads, work, steps) < WORTH_ROUNDING:
        return Chosen(PLAIN, f"only {_counted(work, steps)}")
    return Chosen(HALF, f"{units}, {count}")


def layout_rule(device: torch.device, net: nn.Module, inputs: Any, precision: str) -> Chosen:
    """Channels last for two-dimensional convolutions: on a CPU, and in half precision on a GPU."""
    if not is_planar(net, inputs):
        return Chosen(False, "no two-dimensional convolutions")
    if device.type == "cpu" and any(map(_overruns, net.modules())):
        return Chosen(False, f"a strided 1 x 1 convolution of fewer than {OVERRUN} channels on a CPU")
    if device.type == "cpu":
        return Chosen(True, "two-dimensional convolutions on a CPU")
    if device.type == "cuda" and "16" in precision:
        return Chosen(True, "two-dimensional convolutions in half precision")
    return Chosen(False, f"{precision} on {device.type}")


def _overruns(module: nn.Module) -> bool:
    """Whether PyTorch's kernel for it, channels last, writes behind its memory on a processor without AVX-512."""
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels < OVERRUN
        and set(module.kernel_size) == {1}
        and max(module.stride) > 1
    )


def inputs_of(task: Task[Any], batch: Any) -> Any:
    """What the network is called with; None where the task does not say it: then it is taken for no image."""
    try:
        return task.inputs(batch)
    except ConfigurationError:
        return None


def is_planar(net: nn.Module, inputs: Any) -> bool:
    """Whether a network has kernels of two dimensions, none of three, and is called with images."""
    dims = {weight.ndim for weight in net.parameters()}
    return isinstance(inputs, torch.Tensor) and inputs.ndim == 4 and 4 in dims and 5 not in dims


def compilation_rule(device: torch.device, threads: int, work: Work | None, steps: int, precision: str) -> Chosen:
    """Compilation where a training is long, by its counted work, and there is what it takes."""
    if device.type not in ("cpu", "cuda") or work is None:
        return Chosen(False, f"never on {device.type}" if work else "the work of a step could not be counted")
    seconds = _seconds(device, threads, work, steps) / (SPEED_OF_HALF if "16" in precision else 1.0)
    count = _counted(work, steps)
    if seconds < WORTH_COMPILING:
        return Chosen(False, f"only {count}")
    if not can_compile() or (device.type == "cuda" and find_spec("triton") is None):
        return Chosen(False, f"{count}, but no compiler here")
    return Chosen(True, count)


def _seconds(device: torch.device, threads: int, work: Work, steps: int) -> float:
    """How long a training takes in float32 on a processor that there is not."""
    return steps * (work.operations * SECONDS_OF_AN_OPERATION + work.flops / _rate(device, threads))


def _counted(work: Work, steps: int) -> str:
    return f"{steps:,} steps of {work.flops / 1e9:.3g} GFLOP"


def _rate(device: torch.device, threads: int) -> float:
    return FLOPS_OF_A_THREAD * threads if device.type == "cpu" else FLOPS_OF_A_GPU


def can_compile() -> bool:
    """Whether this machine has what torch.compile needs: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")) and headers.exists()


def bfloat16_units(device: torch.device) -> str:
    """What computes in bfloat16 on a device, by name; empty where nothing does, or nothing that was tried.

    Elsewhere autocast is slower than float32: numbers are widened, computed with and narrowed again. Processors of ARM
    have such units, but PyTorch has no backward passes of convolutions for them.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return f"compute capability {capability[0]}.{capability[1]}" if capability >= CAPABLE else ""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ""
    flags = cpu_flags()
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
    allowed = _allowed_by_environment(os.environ)
    return next((name for flag, name in names.items() if flag in flags and allowed), "")


def cpu_flags() -> frozenset[str]:
    """What the processor says it can do, as Linux names it; empty where that cannot be read."""
    if hasattr(torch.cpu, "get_capabilities"):  # since PyTorch 2.13
        return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    info = Path("/proc/cpuinfo")
    if platform.machine().lower() not in ("x86_64", "amd64") or not info.exists():
        return frozenset()
    lines = info.read_text(encoding="utf-8").splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _allowed_by_environment(variables: Mapping[str, str]) -> bool:
    """Whether oneDNN, which computes convolutions, may use all that there is; its variables can forbid it."""
    limits = [variables.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    return all(not limit or "BF16" in limit or "AMX" in limit or limit in ("ALL", "DEFAULT") for limit in limits)
