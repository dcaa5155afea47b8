"""Names of a package that are imported when somebody asks for them.

The package imports the same names under ``if TYPE_CHECKING``, for type checkers and editors.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dynamicblocks.extras import needed_for


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package, whose modules are found as attributes, too.

    Args:
        package: its ``__name__``.
        homes: for each of its modules the names that come from there, with spaces between them.
    """
    home_of = {name: f"{package}.{home}" for home, names in homes.items() for name in names.split()}
    module = sys.modules[package]

    def get(name: str) -> Any:
        with needed_for(f"{package}.{name}"):
            if name in home_of:
                found = getattr(import_module(home_of[name]), name)
            elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
                found = import_module(f"{package}.{name}")
            else:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(module, name, found)  # found without a search from now on
        return found

    def names() -> list[str]:
        return sorted({*vars(module), *home_of, *module.__all__})

    return get, names
