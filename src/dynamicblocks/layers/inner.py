"""A layer that stands inside another one: made by its name, or by a function of its width."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.protocol import takes_time
from dynamicblocks.layers.registry import layers

InnerSpec = str | Callable[[int], nn.Module]


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None: the others are as the inner layer has them.

    >>> given(bias=False, norm=None)
    {'bias': False}
    """
    return {name: each for name, each in options.items() if each is not None}


def inner_layer(spec: InnerSpec, width: int, options: Mapping[str, Any], *, dims: int, name: str) -> nn.Module:
    """The layer of a width that ``spec`` names or makes.

    Args:
        spec: the name of a layer, also with arguments, or a function of the width, which chooses all options itself.
        width: number of channels.
        options: keywords of the named layer.
        dims: told to a named layer that asks for it.
        name: that of the argument, for errors.

    Raises:
        ConfigurationError: no such layer or option, options beside a function, or no module.
    """
    made: object = None
    if isinstance(spec, str):
        made = layers.create(spec, width, **options, **({"dims": dims} if layers.takes(spec, "dims") else {}))
    elif callable(spec) and not isinstance(spec, nn.Module):
        if options:
            raise ConfigurationError(
                f"a function for {name} chooses all options of its layers, so {', '.join(options)} cannot be given "
                "beside it"
            )
        made = spec(width)
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"{name} must be the name of a layer or a function of a width that makes a module, got {spec!r:.80}"
        )
    return made


def check_timeless(layer: nn.Module, what: str, instead: str = "") -> nn.Module:
    """Return a layer that is a function of the state alone, or raise and say ``what`` has to be one."""
    if takes_time(layer):
        raise ConfigurationError(f"{what} alone, but {type(layer).__name__} takes the time{instead}")
    return layer
