"""What tests compare with, where it is installed; where it is not, the tests that use it are skipped, and no others."""

from importlib import import_module

import pytest


class Missing:
    """In the place of a module that is not installed, and of all that it has."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_, **__):
        pytest.skip(f"{self._name} is not installed", allow_module_level=True)


def optional(module, *names):
    """The module, or a tuple of what it has by these names."""
    try:
        found = import_module(module)
    except ModuleNotFoundError:
        found = Missing(module)
    return tuple(getattr(found, name) for name in names) if names else found
