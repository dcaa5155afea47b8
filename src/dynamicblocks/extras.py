"""Packages that only the extras ``train`` and ``tables`` install, and what is said where one of them is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from dynamicblocks.errors import MissingPackageError

# What is imported, and what it is called where it is installed from; of the extra ``train``.
PACKAGES = {
    "PIL": "pillow",
    "filelock": "filelock",
    "lightning_fabric": "lightning-fabric",
    "matplotlib": "matplotlib",
    "pooch": "pooch",
    "requests": "requests",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# The same of the extra ``tables``.
TABLES = {"pyarrow": "pyarrow"}


@contextmanager
def needed_for(purpose: str) -> Iterator[None]:
    """An import within it whose package is missing is an error that says what the package is for and how to get it.

    Raises:
        MissingPackageError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = "tables" if module in TABLES else "train"
        package = (PACKAGES | TABLES).get(module)
        if package is None:
            raise
        # Of several purposes, each within the other, the outermost is what somebody asked for.
        missing = MissingPackageError(
            f'{purpose} needs {package}, which is not installed; get it with: pip install "dynamicblocks[{extra}]"'
        )
        missing.name = error.name
        raise missing from error
