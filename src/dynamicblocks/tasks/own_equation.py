"""Equations of one's own: a function or a module in a file that the caller names."""

from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences import Equation
from dynamicblocks.tasks.own import is_own
from dynamicblocks.tasks.own_parts import Kind, part_of, read_part
from dynamicblocks.tasks.own_parts import reference_of as reference_to

EQUATION = Kind(
    "an equation",
    "a function f(t, y, a=1.0, ...) with first guesses of its constants, or a torch module that is made without "
    "arguments",
    lambda found: callable(found) and (not isinstance(found, type) or issubclass(found, nn.Module)),
    "own_equation",
)


def own_equation(text: str) -> str:
    """Read an equation, ``FILE.py:Name``, so that runs of it can be read; its name and hash.

    Raises:
        ConfigurationError: there is none in the file, or it cannot be read; the message says why, and the line.
    """
    return read_part(text, EQUATION)


def reference_of(equation: str) -> str:
    """How files name an equation: by its name, or that with the hash of its file."""
    return reference_to(equation, EQUATION)


def make_equation(equation: str) -> nn.Module:
    """The equation of that name, of FILE.py:Name, or of Name@hash once the file was read.

    Raises:
        ConfigurationError: there is none, or its file is not known.
    """
    reference = own_equation(equation) if is_own(equation) else equation
    if "@" not in reference:
        return Equation(reference)
    found: Any = part_of(reference, EQUATION)
    if not isinstance(found, type):
        return found if isinstance(found, nn.Module) else Equation(found)
    try:
        made: nn.Module = found()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"the equation {reference.partition('@')[0]} cannot be made: {error}") from error
    return made
