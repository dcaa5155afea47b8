"""What a field may read and change beside its arguments, buffers and random numbers, as it was before.

Buffers are never exchanged in a module for the time of a pass, which another thread may call: what runs again runs on
stand-ins of the modules, with copies (``course.apart``).
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states


class Buffers:
    """The buffers of some modules, wherever these keep them.

    Args:
        modules: whose buffers.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # The dictionaries in which modules keep their buffers: attribute access would check each of hundreds anew.
        self._places = [
            (module._buffers, name)
            for root in modules
            for module in root.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def now(self) -> list[Tensor]:
        """The buffers as they are."""
        return [buffers[name] for buffers, name in self._places]  # type: ignore[misc]

    def put(self, tensors: Iterable[Tensor]) -> None:
        """Give the modules these tensors as buffers."""
        for (buffers, name), tensor in zip(self._places, tensors, strict=True):
            buffers[name] = tensor

    def places(self) -> list[tuple[int, str]]:
        """Where they are, for stand-ins."""
        return [(id(buffers), name) for buffers, name in self._places]


class KeptBuffers:
    """Copies of the buffers that modules had when it was made.

    As a context it gives modules these copies, and at its end the live buffers, untouched: for who has the modules to
    himself.

    Args:
        buffers: which.
        separate: whether the copies are tensors of their own. Views of one tensor, which are made faster, count their
            changes together, so a graph that saved one of them finds it changed.
    """

    def __init__(self, buffers: Buffers, *, separate: bool = False) -> None:
        self._buffers, self._apart = buffers, separate
        live = buffers.now()
        self._outside: list[list[Tensor]] = []
        alike: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for place, buffer in enumerate(live):
            alike.setdefault((buffer.dtype, buffer.device), []).append(place)
        self._shapes = [buffer.shape for buffer in live]
        # One copy for all buffers of a type: a normalisation has three small ones, and a block hundreds.
        self._kept = [
            (places, torch.cat([live[place].detach().reshape(-1) for place in places])) for places in alike.values()
        ]

    def copies(self) -> list[Tensor]:
        """The buffers as they were."""
        found: dict[int, Tensor] = {}
        for places, joined in self._kept:
            sizes = [self._shapes[place].numel() for place in places]
            parts = torch.split(joined if self._apart else joined.clone(), sizes)
            for place, part in zip(places, parts, strict=True):
                found[place] = (part.clone() if self._apart else part).view(self._shapes[place])
        return [found[place] for place in range(len(self._shapes))]

    def by_place(self) -> dict[tuple[int, str], Tensor]:
        """Copies for stand-ins of the modules."""
        return dict(zip(self._buffers.places(), self.copies(), strict=True))

    def __enter__(self) -> None:
        self._outside.append(self._buffers.now())
        self._buffers.put(self.copies())

    def __exit__(self, *_exception: object) -> None:
        self._buffers.put(self._outside.pop())

    def set_back(self, live: list[Tensor]) -> None:
        """Give the live buffers the values that they had, and modules these buffers.

        A statistic that another thread moved meanwhile is moved back, too, as one of two writers of a buffer loses.
        """
        for buffer, value in zip(live, self.copies(), strict=True):
            # Past autograd, as batch normalisation itself does: no step that was taken needs the values in between.
            buffer.data.copy_(value)
        self._buffers.put(live)


@dataclass(frozen=True)
class RandomState:
    """The states of the generator of the CPU and of that of another device."""

    like: Tensor
    cpu: Tensor
    devices: list[int]
    states: list[Tensor]

    @classmethod
    def now(cls, like: Tensor) -> "RandomState":
        """Those of now; ``like`` is a tensor on the other device."""
        return cls(like, torch.get_rng_state(), *get_device_states(like))

    def equals(self, other: "RandomState") -> bool:
        """Whether the same numbers are to come."""
        pairs = zip([self.cpu, *self.states], [other.cpu, *other.states], strict=True)
        return all(torch.equal(one, two) for one, two in pairs)

    def restore(self) -> None:
        """Set the generators."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            set_device_states(self.devices, self.states, device_type=self.like.device.type)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """While this lasts, the same numbers come again; what it ends in is left as it was.

        PyTorch has one generator for all threads, so it is only set where what runs again draws from it: numbers that
        other threads draw meanwhile are drawn once more, as beside PyTorch's own checkpoints.
        """
        outside = RandomState.now(self.like)
        if not outside.equals(self):
            self.restore()
        try:
            yield
        finally:
            if not outside.equals(RandomState.now(self.like)):
                outside.restore()


class Surroundings:
    """Buffers and random numbers as they are before each action of a solve.

    Args:
        modules: whose buffers.
        like: a tensor on the device whose generator is meant, beside that of the CPU.
    """

    def __init__(self, modules: Iterable[nn.Module], like: Tensor) -> None:
        self._like = like.detach()[..., :0] if like.ndim else like.detach()
        self._buffers = Buffers(modules)
        self._last: Snapshot | None = None
        self._versions: list[tuple[int, int]] = []

    def now(self) -> "Snapshot":
        """A snapshot: the last one, if nothing has changed since."""
        versions = [(id(buffer), buffer._version) for buffer in self._buffers.now()]
        random = RandomState.now(self._like)
        if self._last is None or versions != self._versions or not self._last.random.equals(random):
            self._last, self._versions = Snapshot(random, KeptBuffers(self._buffers, separate=True)), versions
        return self._last


@dataclass(frozen=True)
class Snapshot:
    """Random numbers, and copies of the buffers, as they were."""

    random: RandomState
    buffers: KeptBuffers
