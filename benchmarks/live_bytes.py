"""How many bytes of tensors are alive, and how many were at most: the memory that an algorithm keeps.

The operating system's figures depend on what an allocator caches and returns; this count depends on the algorithm
alone, so it is the same on every run and machine and small differences can be tested. It works on every device.
What a kernel allocates and frees inside itself (the workspace of a convolution) is not seen.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Count the storages that are made while the mode is on, until they die.

    Views and in-place results share a storage, which counts once. Storages from before (weights, inputs, gradients
    that exist already) count nothing, so the peak is the excess over the start.

    >>> with LiveBytes() as live:
    ...     x = torch.zeros(1000)
    ...     y = (x + 1).view(10, 100) + 1  # x, its sum and the result: three storages at once
    >>> live.peak, live.current
    (12000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        # Addresses of the living storages that were met, old and new; an address can be given out again after death.
        self._met: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation; what it takes is old, what it returns beyond that is new."""
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._meet(storage, 0)
        result = func(*args, **kwargs)
        for storage in _storages(result):
            self._meet(storage, storage.nbytes())
        return result

    def _meet(self, storage: torch.UntypedStorage, size: int) -> None:
        address = storage._cdata
        if address in self._met:
            return
        self._met.add(address)
        self.current += size
        self.peak = max(self.peak, self.current)
        # PyTorch keeps one Python object for the life of a storage, so this runs when the memory itself is freed.
        weakref.finalize(storage, self._forget, address, size).atexit = False

    def _forget(self, address: int, size: int) -> None:
        self._met.discard(address)
        self.current -= size


def _storages(tree: object) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
            yield leaf.untyped_storage()


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes alive at once during ``run()``, beyond those alive before it."""
    with LiveBytes() as live:
        run()
    return live.peak
