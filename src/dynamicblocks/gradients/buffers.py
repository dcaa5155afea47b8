"""What a field may read and change beside its arguments, buffers and random numbers, as it was before.

Buffers are never exchanged in a module for the time of a pass, which another thread may call: what runs again runs on
stand-ins of the modules, with copies (``course.apart``).
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states


class Buffers:
    """The buffers of some modules, wherever these keep them.

    Args:
        modules: whose buffers.
        which: of them; by default all.
    """

    def __init__(self, modules: Iterable[nn.Module], which: Callable[[nn.Module, str], bool] | None = None) -> None:
        # The dictionaries in which modules keep their buffers: attribute access would check each of hundreds anew.
        self._places = [
            (module._buffers, name)
            for root in modules
            for module in root.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and (which is None or which(module, name))
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


# What normalisations of PyTorch note down, and how they are called.
_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_NORMALISED = frozenset(
    kind.forward
    for kind in (nn.BatchNorm2d, nn.InstanceNorm2d, nn.SyncBatchNorm)  # of any dimensions
)


def is_read(module: nn.Module, name: str) -> bool:
    """Whether what a module returns may depend on a buffer of its own.

    Normalisation in training takes mean and variance of the batch, and only notes them down. Everything else may read
    what it holds.

    >>> norm = nn.BatchNorm1d(2)
    >>> is_read(norm, "running_mean"), is_read(norm.eval(), "running_mean")
    (False, True)
    """
    noted = name in _STATISTICS and type(module).forward in _NORMALISED and "forward" not in vars(module)
    return not (noted and module.training)


class Surroundings:
    """Buffers and random numbers as they are before each action or evaluation of a solve.

    Of buffers that are only written (:func:`is_read`) nothing is kept, of others a copy at first and one for each
    change.

    Args:
        modules: whose buffers.
        like: a tensor on the device whose generator is meant, beside that of the CPU.
    """

    def __init__(self, modules: Iterable[nn.Module], like: Tensor) -> None:
        modules = list(modules)
        # Not a view of it: what is kept until the next collection of garbage would keep the state's memory.
        self._like = like.detach().new_empty(0)
        self._read = Buffers(modules, is_read)
        self._written = Buffers(modules, lambda module, name: not is_read(module, name))
        self._last: Snapshot | None = None
        # Held, so that no other tensor can have the identity of one of them.
        self._live: list[Tensor] = []
        self._versions: list[int] = []
        self._changes: list[tuple[list[int], list[Tensor]]] = [([], []) for _ in self._read.now()]
        self._moments = 0

    def now(self) -> "Snapshot":
        """A snapshot: the last one, if nothing has changed since."""
        live, random, last = self._read.now(), RandomState.now(self._like), self._last
        versions = [buffer._version for buffer in live]
        changed = [
            place
            for place, buffer in enumerate(live)
            if last is None or buffer is not self._live[place] or versions[place] != self._versions[place]
        ]
        self._live, self._versions = live, versions
        for place in changed:
            moments, copies = self._changes[place]
            moments.append(self._moments)
            copies.append(live[place].detach().clone())
        if last is None or changed or not last.random.equals(random):
            if last is not None and last.random.equals(random):
                random = last.random
            self._last = last = Snapshot(random, self._moments, self)
            self._moments += 1
        return last

    def copies(self, moment: int) -> dict[tuple[int, str], Tensor]:
        """Copies of the buffers for stand-ins: of those that are read as they were, of others as they are."""
        then = [copies[bisect_right(moments, moment) - 1].clone() for moments, copies in self._changes]
        found = dict(zip(self._read.places(), then, strict=True))
        return found | dict(
            zip(self._written.places(), (each.detach().clone() for each in self._written.now()), strict=True)
        )

    @property
    def changing(self) -> bool:
        """Whether a buffer that is read has changed."""
        return any(len(moments) > 1 for moments, _ in self._changes)


@dataclass(frozen=True)
class Snapshot:
    """Random numbers and buffers as they were at a moment."""

    random: RandomState
    moment: int
    surroundings: Surroundings

    def buffers(self) -> dict[tuple[int, str], Tensor]:
        """Copies of the buffers, by their places, for stand-ins."""
        return self.surroundings.copies(self.moment)
