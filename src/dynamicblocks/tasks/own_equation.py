"""Equations of one's own: a function or a module in a file that the caller names.

As with tasks, only what the caller names is ever imported, and a run stores name and hash alone.
"""

import hashlib
import inspect
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.sequences import Equation, equations
from dynamicblocks.tasks.own import is_own, own_module

FORM = "FILE.py:Name"

_read: dict[str, Any] = {}
"""What was read in this process, by name and hash: Name@sha256."""


def own_equation(text: str) -> str:
    """Read an equation, ``FILE.py:Name``, so that runs of it can be read; its name and hash.

    Raises:
        ConfigurationError: there is none in the file, or it cannot be read; the message says why, and the line.
    """
    module, name, source = own_module(text, "an equation")
    if name not in vars(module):
        home = module.__name__
        known = [each for each, found in vars(module).items() if is_equation(found) and found.__module__ == home]
        raise unknown_name(f"equation in {text.rpartition(':')[0]}", name, known)
    found = vars(module)[name]
    if not callable(found) or (isinstance(found, type) and not issubclass(found, nn.Module)):
        raise ConfigurationError(
            f"{text} is no equation: it must be a function f(t, y, a=1.0, ...) with first guesses of its constants, or "
            f"a torch module that is made without arguments, got {found!r:.80}"
        )
    reference = f"{name}@{hashlib.sha256(source).hexdigest()}"
    _read[reference] = found
    return reference


def reference_of(equation: str) -> str:
    """How files name an equation: by its name, or that with the hash of its file."""
    return own_equation(equation) if is_own(equation) else equation


def make_equation(equation: str) -> nn.Module:
    """The equation of that name, of FILE.py:Name, or of Name@hash once the file was read.

    Raises:
        ConfigurationError: there is none, or its file is not known.
    """
    reference = reference_of(equation)
    if "@" not in reference:
        return Equation(reference)
    if reference not in _read:
        name, _, digest = reference.partition("@")
        changed = [each for each in _read if each.partition("@")[0] == name]
        said = "that file has changed since" if changed else "where its file lies is not recorded"
        raise ConfigurationError(
            f"the run has an equation of its own, {name}, and {said}; add --task FILE.py:{name}, or in Python call "
            f'own_equation("FILE.py:{name}") first, with the file of SHA-256 {digest:.12}...'
        )
    found = _read[reference]
    if not isinstance(found, type):
        return found if isinstance(found, nn.Module) else Equation(found)
    try:
        return found()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"the equation {reference.partition('@')[0]} cannot be made: {error}") from error


def is_equation(found: Any) -> bool:
    """Whether what stands in a file may be meant as an equation: a class of modules, or a function of two or more."""
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    return inspect.isfunction(found) and len(inspect.signature(found).parameters) >= 2


def check_equation(equation: str) -> None:
    """Raise where an equation is neither known nor could be one of somebody's own."""
    if equation and not is_own(equation) and "@" not in equation and equation not in equations:
        make_equation(equation)
