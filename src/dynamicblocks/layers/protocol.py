"""What a block asks of a layer: ``forward(y)`` or ``forward(t, y)``, and perhaps a projection of the state."""

import inspect

from torch import nn

from dynamicblocks.errors import ConfigurationError


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


def takes_time(layer: nn.Module) -> bool:
    """Whether ``layer.forward`` is ``forward(t, y)`` (true) or ``forward(y)`` (false).

    Raises:
        ConfigurationError: the signature is neither.

    >>> takes_time(nn.Conv2d(2, 2, 3))
    False
    """
    parameters = inspect.signature(layer.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    callable_by_position = not any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if callable_by_position and len(required) == 2:
        return True
    if callable_by_position and (len(required) == 1 or (not required and (positional or variadic))):
        return False
    raise ConfigurationError(
        f"{type(layer).__name__}.forward{inspect.signature(layer.forward)} must take (y) or (t, y); "
        "give other inputs defaults"
    )
