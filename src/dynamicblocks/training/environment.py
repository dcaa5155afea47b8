"""What a measurement ran on."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("dynamicblocks", "torch", "numpy", "lightning-fabric", "safetensors", "scikit-learn")


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record of a run or a benchmark."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": versions,
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": gpus,
        },
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What may give other bits now than in the run that ``before`` is the record of: a sentence, or none.

    Sums are split among threads, and each processor and version of PyTorch has kernels of its own.
    """
    places = (
        ("threads of PyTorch", "hardware", "torch_threads"),
        ("processor", "hardware", "processor"),
        ("GPU", "hardware", "gpus"),
        ("PyTorch", "versions", "torch"),
    )
    found = []
    for title, part, name in places:
        there, here = (record.get(part, {}).get(name) for record in (before, now))
        if there is not None and there != here:
            found.append(f"{title} {_shown(here)} (run.json: {_shown(there)})")
    if found:
        yield f"bits may differ from those of an uninterrupted run, for this one goes on with {', '.join(found)}"


def _shown(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)
