"""What a block asks of a layer: ``forward(y)`` or ``forward(t, y)``, and perhaps a projection of the state."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError

# Names of a first parameter that is the time.
TIME = ("t", "time")
# Where modules of PyTorch keep how many channels they take.
CHANNELS = ("in_channels", "num_features", "in_features", "num_channels")


class ProjectedLayer(nn.Module):
    """A layer that also carries a map of the state, applied after each full step: y <- P(y + h f(y)).

    Subclasses set ``projection`` (None: no map). The map is part of the layer, so its weights and statistics belong
    to the same control; it follows full steps only, never the stages inside one, under any integrator.

    Residual networks that act on the sum (He et al. 2016, units (a) and (b)) are such layers.
    """

    projection: nn.Module | None

    def __init__(self, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.projection = projection


def takes_time(layer: nn.Module | Callable[..., Any], *, part: bool = False) -> bool:
    """Whether a layer is called as ``(t, y)`` (true) or as ``(y)`` (false).

    A boolean attribute ``takes_time`` of the module says so, or else the name of the first of several parameters, ``t``
    or ``time``. Under another name that is the state, and whatever follows it needs a default. A method of a module
    other than ``forward`` is a part of a layer, which may take more after the state.

    Args:
        layer: a module, whose ``forward`` is meant, a bound method of one, or any callable.
        part: whether it is a part of a layer, whatever it is: a submodule, or a method of what is no module.

    Raises:
        ConfigurationError: the signature is neither, may be either, or is not what the module declares.

    >>> takes_time(nn.Conv2d(2, 2, 3))
    False
    >>> takes_time(lambda t, y: -t * y)
    True
    """
    owner = layer if isinstance(layer, nn.Module) else getattr(layer, "__self__", None)
    module = owner if isinstance(owner, nn.Module) else None
    function = layer.forward if isinstance(layer, nn.Module) else layer
    declared = _declared(module)
    name = "forward" if layer is module else getattr(layer, "__name__", type(layer).__name__)
    title = name if module is None else f"{type(module).__name__}.{name}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # code that is not Python's
        if declared is None:
            raise ConfigurationError(
                f"the signature of {title} cannot be read; declare takes_time = True or False on the class of the layer"
            ) from None
        return declared
    positional, required, most = _positions(signature)
    is_part = part or (module is not None and function != module.forward)

    def fits(count: int) -> bool:
        return count <= most and (is_part or required <= count)

    named = most >= 2 and bool(positional) and positional[0] in TIME
    timed = named if declared is None else declared
    if fits(2 if timed else 1):
        return timed
    if declared and is_part and fits(1):
        return False  # the layer takes the time, but this part of it has no place for one
    if declared is not None:
        raise ConfigurationError(
            f"{title}{signature} cannot be called with {'(t, y)' if declared else '(y)'}, though takes_time of "
            f"{type(module).__name__} is {declared}; correct either, and give other inputs defaults"
        )
    raise ConfigurationError(
        f"{title}{signature} must take (y) or (t, y): name its first parameter t if that is the time, or declare "
        "takes_time = True or False on the class of the layer; give other inputs defaults"
    )


def _declared(module: nn.Module | None) -> bool | None:
    declared = getattr(module, "takes_time", None)
    if declared is None or isinstance(declared, bool):
        return declared
    raise ConfigurationError(
        f"takes_time of {type(module).__name__} must be True or False (is it called with the time?), got {declared!r}"
    )


def _positions(signature: inspect.Signature) -> tuple[list[str], int, float]:
    """The names of the parameters by position, how many of them are required, and how many there may be."""
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return [], required, -1  # no number of positions will do
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    return [p.name for p in positional], required, most


def state_width(layer: nn.Module) -> int | None:
    """The number of channels of the state that a layer takes, as far as it tells.

    Its own attribute ``width``, or else the channels of the first of its modules that has any, or else None.

    >>> state_width(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3))), state_width(nn.ReLU())
    (4, None)
    """
    candidates = [(layer, "width"), *((module, name) for module in layer.modules() for name in CHANNELS)]
    found = (getattr(module, name, None) for module, name in candidates)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool)), None)
