"""The parts of a layer: what of it a step may evaluate, by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.protocol import ProjectedLayer

FIELD, PROJECTION = "field", "projection"
"""The right-hand side itself, and the map of the state that follows each full step, of layers that have one."""

Parts = Mapping[str, str]
"""For each part the name of the method or submodule of the layer that computes it."""


def parts_of(layer: object) -> Parts:
    """What a layer declares as ``parts``; else its field, and the projection of layers that have one.

    Raises:
        ConfigurationError: the declaration is no mapping of names to methods of the layer.

    >>> parts_of(nn.Identity())
    {'field': 'forward'}
    """
    name, declared = type(layer).__name__, getattr(layer, "parts", None)
    if not isinstance(declared, Mapping):
        if isinstance(layer, ProjectedLayer) and layer.projection is not None:
            return {"field": "forward", "projection": "projection"}
        # A function of the caller's is a field, whatever else it carries.
        return {"field": "forward" if isinstance(layer, nn.Module) else "__call__"}
    for part, method in declared.items():
        if not (isinstance(part, str) and isinstance(method, str) and callable(getattr(layer, method, None))):
            raise ConfigurationError(
                f"{name}.parts must name a method or submodule for each part, such as {{'field': 'forward'}}, but "
                f"{part!r}: {method!r} is none of {name}"
            )
    return declared


def check_parts(read: Iterable[str], parts: Iterable[str], integrator: str, layer: str) -> None:
    """Raise a ConfigurationError that names what an integrator reads and a layer does not have."""
    there = set(parts)
    missing = [part for part in dict.fromkeys(read) if part not in there]
    if missing:
        raise ConfigurationError(
            f"{integrator} reads {' and '.join(map(repr, missing))}, and {layer} has only "
            f"{', '.join(map(repr, sorted(there)))}; declare it in the layer, such as "
            f"parts = {{..., {missing[0]!r}: 'name_of_a_method'}}, or take another integrator"
        )


def called(layer: Any, method: str) -> Callable[..., Any]:
    """The function of a layer that computes a part; where that is its forward, with its hooks."""
    return layer if method in ("forward", "__call__") else getattr(layer, method)
