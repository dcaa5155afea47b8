"""Fields of flows of one's own: a class of modules in a file that the caller names."""

import inspect
import math

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows import FieldMaker
from dynamicblocks.tasks.own_parts import Kind, is_named_by_file, name_of

FIELD = Kind(
    "a field",
    "a class of torch modules f(t, x) or f(t, x, context), made without arguments or of some of features, shape, "
    "context",
    lambda found: isinstance(found, type) and issubclass(found, nn.Module),
    "own_field",
)


def own_field(text: str) -> str:
    """Read the field of a flow, ``FILE.py:Name``, so that runs of it can be read; its name and hash.

    Raises:
        ConfigurationError: there is none in the file, or it cannot be read; the message says why, and the line.
    """
    return FIELD.read(text)


def has_closed_form(field: str) -> bool:
    """Whether a field of somebody's own tells the trace of its Jacobian with its slope, by a method ``divergence``."""
    return is_named_by_file(field) and hasattr(FIELD.found(field), "divergence")


def maker_of(field: str) -> FieldMaker:
    """Makes the field of FILE.py:Name, or of Name@hash once the file was read, for samples of a shape and a context.

    The class gets those of ``features`` (numbers of a sample), ``shape`` and ``context`` (numbers of a context) that it
    takes.

    Raises:
        ConfigurationError: its file is not known.
    """
    found = FIELD.found(field)

    def make(shape: tuple[int, ...], context: int) -> nn.Module:
        offered = {"features": math.prod(shape), "shape": shape, "context": context}
        try:
            taken = inspect.signature(found).parameters
            made: nn.Module = found(**{name: value for name, value in offered.items() if name in taken})
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"the field {name_of(field)} cannot be made: {error}") from error
        return made

    return make
