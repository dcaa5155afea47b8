"""What a field may read and change beside its arguments, set back to what it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from dynamicblocks.errors import ConfigurationError


class Surroundings:
    """What a field may read and change beside its arguments: generators of random numbers, and buffers.

    Args:
        modules: whose buffers.
        like: a tensor on the device whose generator is meant, beside that of the CPU.
    """

    def __init__(self, modules: Sequence[nn.Module], like: Tensor) -> None:
        self._like = like.detach()[..., :0] if like.ndim else like.detach()
        self._places = [
            (module._buffers, name)
            for root in modules
            for module in root.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._last: Snapshot | None = None
        self._versions: list[tuple[int, int]] = []

    def now(self) -> "Snapshot":
        """A snapshot: the last one, if nothing has changed since."""
        buffers = [_buffer(*place) for place in self._places]
        versions = [(id(buffer), buffer._version) for buffer in buffers]
        random = Random.now(self._like)
        if self._last is None or versions != self._versions or not self._last.random.equals(random):
            kept = [buffer.detach().clone() for buffer in buffers]
            self._last, self._versions = Snapshot(random, self._places, kept), versions
        return self._last


Place = tuple[dict[str, Tensor | None], str]
"""Where a module keeps a buffer."""


def _buffer(buffers: dict[str, Tensor | None], name: str) -> Tensor:
    buffer = buffers[name]
    if buffer is None:
        raise ConfigurationError(f"func removed its buffer {name} while it was evaluated")
    return buffer


@dataclass(frozen=True)
class Random:
    """The states of the generator of the CPU and of that of another device."""

    like: Tensor
    cpu: Tensor
    devices: list[int]
    states: list[Tensor]

    @classmethod
    def now(cls, like: Tensor) -> "Random":
        """Those of now."""
        return cls(like, torch.get_rng_state(), *get_device_states(like))

    def equals(self, other: "Random") -> bool:
        """Whether the same numbers are to come."""
        pairs = zip([self.cpu, *self.states], [other.cpu, *other.states], strict=True)
        return all(torch.equal(one, two) for one, two in pairs)

    def restore(self) -> None:
        """Set the generators."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            set_device_states(self.devices, self.states, device_type=self.like.device.type)


class Snapshot:
    """A context in which random numbers and copies of the buffers are as they were; what it ends in is left alone."""

    def __init__(self, random: Random, places: Sequence[Place], buffers: Sequence[Tensor]) -> None:
        self.random, self._places, self._buffers = random, places, buffers
        self._outside: tuple[Random, list[Tensor]] = random, []

    def __enter__(self) -> None:
        self._outside = Random.now(self.random.like), [_buffer(*place) for place in self._places]
        self.random.restore()
        # Clones one by one: views of one would count their changes together, and gradients would find them changed.
        self._place([buffer.clone() for buffer in self._buffers])

    def __exit__(self, *_exception: object) -> None:
        random, buffers = self._outside
        self._place(buffers)
        random.restore()

    def _place(self, buffers: Sequence[Tensor]) -> None:
        for (where, name), buffer in zip(self._places, buffers, strict=True):
            where[name] = buffer
