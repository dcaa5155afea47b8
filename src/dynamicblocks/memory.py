"""What needs more memory than there is, refused before it is made.

Of a network nobody knows the size before it is built: layers may be the caller's own. So tensors are counted where all
of them are made, below the modules, and a number of equal layers by the first of them. Systems promise memory that they
do not have: without this a process is killed while it draws its weights. (A mode for functions, not for dispatch, which
would import the compiler.)
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from dynamicblocks.errors import ConfigurationError

COPIES = 2
"""Of weights: with their gradients, or with the file that they are read from."""

OF_A_SIZE = frozenset((torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn))
"""By which modules make their tensors."""

ENOUGH = 2**24
"""Bytes for which there is always memory."""

# Where the limit of a container stands, in versions 2 and 1 of control groups.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available() -> int | None:
    """Bytes of memory that are free or can be freed; None where the system does not say."""
    found = [int(text) for text in map(_read, LIMITS) if text.isdigit()]
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def check_memory(need: int, what: str, remedy: str = "") -> None:
    """Raise unless there is so much memory, in bytes.

    >>> check_memory(10**18, "a network")
    Traceback (most recent call last):
        ...
    dynamicblocks.errors.ConfigurationError: a network needs 1,000,000,000 GB of memory, and there are ...
    """
    if need < ENOUGH:
        return
    there = available()
    if there is not None and need > there:
        needs = f"{need / 1e9:,.0f} GB of memory, and there are {there / 1e9:,.1f} GB"
        raise ConfigurationError(f"{what} needs {needs}{remedy}")


def check_weights(weights: int, what: str) -> None:
    """Raise unless there is memory for weights of so many bytes, and for what belongs to them."""
    check_memory(COPIES * weights, f"{what}, weights and their gradients,", "; make it narrower or shallower")


def bytes_of(module: torch.nn.Module) -> int:
    """Bytes of the tensors of a module that are in the memory of the processor; lazy ones have no size yet."""
    tensors = [each for each in (*module.parameters(), *module.buffers()) if not is_lazy(each)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.device.type == "cpu")


@contextmanager
def affordable(what: str) -> Iterator[None]:
    """Refuse tensors for which, with those made here before, there is no memory.

    Raises:
        ConfigurationError: there is not enough memory, or a size beyond all numbers of bytes.
    """
    with _Counted(what):
        yield


class _Counted(TorchFunctionMode):
    """Counts the tensors that functions of a size make, before they do."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.bytes = self.checked = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in OF_A_SIZE:
            self._count(args, options)
        return func(*args, **options)

    def _count(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        device = options.get("device")
        if torch.device(torch.get_default_device() if device is None else device).type != "cpu":
            return
        first = options.get("size", args[0] if args else ())
        size = (first, *args[1:]) if isinstance(first, int) else tuple(first)
        dtype = options.get("dtype") or torch.get_default_dtype()
        self.bytes += prod(length for length in size if isinstance(length, int)) * dtype.itemsize
        if self.bytes > 2 * self.checked + ENOUGH:  # to read how much there is takes longer than small tensors
            check_weights(self.bytes, self.what)
            self.checked = self.bytes
