"""The package under the name of torchdiffeq, for programs that import that."""

import importlib
import pkgutil
import sys
from types import ModuleType

from dynamicblocks.errors import ConfigurationError

NAME = "torchdiffeq"
PACKAGE = f"dynamicblocks.{NAME}"


def stand_in() -> None:
    """Let ``import torchdiffeq``, and of anything below it, give this package, from now on in this process.

    Raises:
        ConfigurationError: torchdiffeq itself was imported before; part of the program would use one, part the other.
    """
    ours = importlib.import_module(PACKAGE)
    if sys.modules.get(NAME, ours) is not ours:
        raise ConfigurationError(
            "torchdiffeq itself was imported before; call dynamicblocks.torchdiffeq.stand_in() first, or run the "
            "program with `python -m dynamicblocks.torchdiffeq`"
        )
    # All at once: a module that were imported under both names would be there twice, and its classes two of a kind.
    sys.modules.update({module.__name__.removeprefix("dynamicblocks."): module for module in _modules(ours)})


def _modules(package: ModuleType) -> list[ModuleType]:
    """The package, and every module below it but the program."""
    below = pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")
    return [package, *(importlib.import_module(each.name) for each in below if not each.name.endswith("__main__"))]
