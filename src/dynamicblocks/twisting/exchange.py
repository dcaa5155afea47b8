"""Modules of a network exchanged for others."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import nn

from dynamicblocks.controls import Controls
from dynamicblocks.errors import ConfigurationError

Net = TypeVar("Net", bound=nn.Module)


def check_controls(net: nn.Module, names: set[str]) -> None:
    """All controls of a block must stay of one form, for they are blended, refined and projected together."""
    for name, module in net.named_modules():
        if not isinstance(module, Controls):
            continue
        tops = [f"{name}.layers.{index}" if name else f"layers.{index}" for index in range(len(module))]
        inside = [{n.removeprefix(top) for n in names if f"{n}.".startswith(f"{top}.")} for top in tops]
        for index, other in enumerate(inside):
            if other != inside[0]:
                raise ConfigurationError(
                    f"all controls of a block are layers of one form, but {tops[0]} and {tops[index]} would differ in "
                    f"{', '.join(sorted(n.lstrip('.') or 'the layer itself' for n in inside[0] ^ other))}; choose the "
                    "same convolutions in each"
                )


def exchanged(net: Net, names: Iterable[str], change: Callable[[Any], nn.Module], inplace: bool) -> Net:
    """``net``, or a copy of it, with ``change`` of each named convolution; one of several names is changed once."""
    other = net if inplace else copy.deepcopy(net)
    made: dict[int, nn.Module] = {}
    # All are looked up before the first is replaced: a module around them may be used at several places too.
    for name, old in [(name, other.get_submodule(name)) for name in sorted(names)]:
        new = made.setdefault(id(old), change(old))
        if name == "":
            if inplace:
                raise ConfigurationError(
                    f"a {type(net).__name__} cannot become another module in place; use inplace=False"
                )
            return new  # type: ignore[return-value]
        parent, _, child = name.rpartition(".")
        setattr(other.get_submodule(parent), child, new)
    return other
