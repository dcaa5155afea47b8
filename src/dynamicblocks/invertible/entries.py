"""The entries of a reversible network: modules, each with the way in which they change the state, there and back."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Carry, Integrator, Reads, Size, Stage
from dynamicblocks.integrators.partitioned import FIRST, SECOND
from dynamicblocks.layers.inputs import no_tensor
from dynamicblocks.layers.lending import Lender
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.layers.stand_in import Places, stand_in
from dynamicblocks.solving.field import Tally

WHOLE, BACK = "whole", "back"
"""Parts of a module that has an inverse of its own."""


class Entry(nn.Module):
    """Modules that make one step.

    Args:
        method: makes the step of them.
    """

    parts: ClassVar[Mapping[str, str]]
    """For each part that the method reads the module, or method of one, that computes it."""

    def __init__(self, method: Integrator) -> None:
        super().__init__()
        self.method = method

    @property
    def types(self) -> bool:
        """Whether its modules take states of their own type only."""
        return True

    def part(self, name: str) -> Callable[..., Any]:
        """What computes a part."""
        place, _, method = self.parts[name].partition(".")
        module = getattr(self, place)
        return getattr(module, method) if method else module

    def title(self, name: str) -> str:
        """A part in words, for errors."""
        place = self.parts[name].partition(".")[0]
        return f"{self.parts[name]}, {type(getattr(self, place)).__name__}"


class Pair(Entry):
    """Two modules, of which each says how the half of the other changes."""

    parts: ClassVar[Mapping[str, str]] = {FIRST: "f", SECOND: "g"}

    def __init__(self, method: Integrator, f: nn.Module, g: nn.Module) -> None:
        super().__init__(method)
        self.f, self.g = f, g


class Residual(Entry):
    """One module, which says how the whole state changes."""

    parts: ClassVar[Mapping[str, str]] = {FIELD: "f"}

    def __init__(self, method: Integrator, f: nn.Module) -> None:
        super().__init__(method)
        self.f = f


class Own(Entry):
    """A module that has an inverse of its own."""

    parts: ClassVar[Mapping[str, str]] = {WHOLE: "f", BACK: "f.inverse"}

    def __init__(self, f: nn.Module) -> None:
        super().__init__(OwnStep())
        self.f = f

    @property
    def types(self) -> bool:
        return any(True for _ in self.f.parameters())


@dataclass(frozen=True)
class OwnStep(Integrator):
    """y1 = f(y0), y0 = f.inverse(y1)."""

    name, order, reads = "inverse of its own", 1, ((0.0, WHOLE), (1.0, BACK))

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        return stage.part(WHOLE, 0.0, carry).to(carry.dtype)

    def unstep(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        return stage.part(BACK, 1.0, carry).to(carry.dtype)


@dataclass(frozen=True)
class EachItsOwn(Integrator):
    """Each step as the method of its entry makes it.

    Args:
        momentum: whether these have a velocity, which is part of the state: place and velocity, one upon the other.
    """

    momentum: bool

    name, order, reads = "reversible", 1, ((0.0, FIELD),)

    @property
    def drifts(self) -> bool:
        return self.momentum

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Carry:
        return self.resumed(y)

    def resumed(self, y: Tensor) -> Carry:
        return y.unbind() if self.momentum else y

    def finish(self, carry: Carry) -> Tensor:
        return torch.stack(carry) if self.momentum else carry

    def advance(self, stage: Any, h: Size, carry: Carry) -> Carry:
        try:
            return stage.entry.method.advance(stage, h, carry)
        except ConfigurationError as error:
            raise _named(error, stage) from error

    def unstep(self, stage: Any, h: Size, carry: Carry) -> Carry:
        try:
            return stage.entry.method.unstep(stage, h, carry)
        except ConfigurationError as error:
            raise _named(error, stage) from error


def _named(error: ConfigurationError, stage: Any) -> ConfigurationError:
    entry = stage.entry
    modules = ", ".join(f"{name}={type(module).__name__}" for name, module in entry.named_children())
    return ConfigurationError(f"entry {stage.step} ({modules}): {error}")


# It stays at zero.
NOT_COUNTED = Tally()


@dataclass(frozen=True)
class EntryField:
    """Entries as a field that is another one on each step.

    Args:
        entries: one for each step.
        context: what modules take behind the state.
        dtype: of the state that modules take, which may be carried with more digits.
        lenders: hand the state to each module, which may change it in place.
    """

    entries: nn.ModuleList
    context: tuple[Any, ...] = ()
    dtype: torch.dtype | None = None
    lenders: dict[tuple[int, str], Lender] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tally(self) -> Tally:
        """Modules are no evaluations of an equation."""
        return NOT_COUNTED

    @property
    def parts(self) -> Container[str]:
        """None that the loop itself would read."""
        return ()

    @property
    def tensors(self) -> list[Tensor]:
        """The weights, and what is handed on to all modules."""
        given = (each for each in self.context if isinstance(each, Tensor) and each.requires_grad)
        return [*self.entries.parameters(), *given]

    @property
    def modules(self) -> list[nn.Module]:
        """The entries."""
        return list(dict.fromkeys(self.entries))

    def on_step(self, step: int) -> "EntryStage":
        """The modules of a step."""
        return EntryStage(self, step)

    def apart(self, places: Places) -> "EntryField":
        """The same with other buffers."""
        return replace(self, entries=stand_in(self.entries, {}, places))

    def jumps(self, step: int, derivatives: int = 0) -> bool:
        """Each entry has weights of its own."""
        return True

    def layers_read(self, steps: Iterable[int], reads: Reads) -> Sequence[nn.Module]:
        """The entries of these steps."""
        return [self.entries[step] for step in steps]


class EntryStage:
    """The modules of one step.

    Args:
        field: of all steps.
        step: n.
    """

    def __init__(self, field: EntryField, step: int) -> None:
        self._field, self.step = field, step
        entry = field.entries[step]
        assert isinstance(entry, Entry)
        self.entry = entry

    def __call__(self, c: float, y: Tensor) -> Tensor:
        return self.part(FIELD, c, y)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """What a module of the entry makes of a state."""
        field, entry = self._field, self.entry
        module = entry.part(name)
        narrow = field.dtype is not None and y.dtype != field.dtype and entry.types
        if torch.compiler.is_compiling():
            return module(y.to(field.dtype, copy=True) if narrow else y.clone(), *field.context)
        if narrow:
            value = module(y.to(field.dtype), *field.context)
        else:
            key = (self.step, name)
            if key not in field.lenders:
                field.lenders[key] = Lender(f"{entry.title(name)} of entry {self.step}")
            value = field.lenders[key](lambda y: module(y, *field.context), y)
        if not isinstance(value, Tensor):
            raise ConfigurationError(f"{entry.title(name)} must return a tensor, {no_tensor(value)}")
        if name == FIELD and value.shape != y.shape:
            raise ConfigurationError(
                f"{entry.title(name)} must keep the shape of the state, but it took {tuple(y.shape)} to "
                f"{tuple(value.shape)}"
            )
        given = y.dtype if not narrow or field.dtype is None else field.dtype
        if value.dtype != given and torch.promote_types(value.dtype, given) != given:
            raise ConfigurationError(
                f"{entry.title(name)} took a state of {given} to {value.dtype}, which is wider; let both be alike"
            )
        return value
