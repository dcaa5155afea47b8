"""Scripts of the experiments as modules."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def load_script(name: str) -> ModuleType:
    """A script, which finds those beside it; all of them are forgotten afterwards, for their names are short."""
    known = set(sys.modules)
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXPERIMENTS))
        for new in set(sys.modules) - known:
            if Path(getattr(sys.modules[new], "__file__", None) or "").parent == EXPERIMENTS:
                del sys.modules[new]
