"""Equations of one's own: a function or a module in a file that the caller names."""

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences import Equation
from dynamicblocks.tasks.own_parts import Kind, is_named_by_file, name_of

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
    return EQUATION.read(text)


def make_equation(equation: str) -> nn.Module:
    """The equation of that name, of FILE.py:Name, or of Name@hash once the file was read.

    Raises:
        ConfigurationError: there is none, or its file is not known.
    """
    if not is_named_by_file(equation):
        return Equation(equation)
    found = EQUATION.found(equation)
    if not isinstance(found, type):
        return found if isinstance(found, nn.Module) else Equation(found)
    try:
        made: nn.Module = found()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"the equation {name_of(equation)} cannot be made: {error}") from error
    return made
