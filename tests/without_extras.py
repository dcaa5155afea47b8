"""Run tests as where the extras are not installed: ``python -m tests.without_extras [arguments of pytest]``.

Without arguments: the tests of everything that needs torch, numpy and safetensors alone. Also a plugin of pytest,
``-p tests.without_extras``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from dynamicblocks.errors import MissingPackageError
from dynamicblocks.extras import PACKAGES, TABLES

BLOCKED = PACKAGES | TABLES
ROOMS = ("blocks", "controls", "functional", "gradients", "integrators", "layers", "solving")


class WithoutExtras:
    """Finds what a finder finds, but no package of the extras: as where they are not installed."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, fullname, path=None, target=None):
        # torch itself imports filelock, and is installed with it.
        if (root := fullname.partition(".")[0]) in BLOCKED and root != "filelock":
            return None
        return self._finder.find_spec(fullname, path, target)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Block them before anything of the tests is imported."""
    loaded = {name.partition(".")[0] for name in sys.modules} & BLOCKED.keys()
    if loaded - {"filelock"}:
        raise RuntimeError(f"imported before they could be blocked: {', '.join(sorted(loaded))}")
    sys.meta_path[:] = [WithoutExtras(finder) for finder in sys.meta_path]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test that asks for what the extra would bring, such as SciPy's method, and is told so."""
    try:
        return (yield)
    except MissingPackageError as error:
        return pytest.skip(f"{error}")


def command(*arguments):
    """The command that runs pytest so; without plugins that import such packages themselves."""
    plugins = [each for name in ("tests.without_extras", "no:xdist", "no:cov") for each in ("-p", name)]
    return [sys.executable, "-m", "pytest", *plugins, "-o", "addopts=", "--strict-markers", "-q", *arguments]


def main():
    """Run the rooms, or what the arguments name."""
    rooms = [f"tests/{room}" for room in ROOMS]
    given = sys.argv[1:] or ["--import-mode=importlib", "-m", "not slow", *rooms]
    return subprocess.run(command(*given), cwd=Path(__file__).parents[1], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
