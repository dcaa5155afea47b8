"""What arguments of the commands must be, told before anything is read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import as_integrator
from dynamicblocks.times import check_amount, check_count, check_steps
from dynamicblocks.training import RunFolder

T = TypeVar("T")


def run_folder(text: str) -> str:
    """The folder of a run.

    Raises:
        StorageError: there is none, or it cannot be read.
        ConfigurationError: it holds one for each of several seeds.
    """
    RunFolder.open(Path(text))
    return text


def run_folders(texts: Sequence[str]) -> list[str]:
    """The folders of runs, each once."""
    return _each_once([run_folder(text) for text in texts], "run")


def integrator(name: str) -> str:
    """An integrator, as it is written in full."""
    return as_integrator(name).shorthand


def integrators(names: Sequence[str] | None) -> list[str] | None:
    """Integrators, each once: "dopri5" and "dopri5(rtol=0.001)" are one."""
    return None if names is None else list(dict.fromkeys(map(integrator, names)))


def factors(numbers: Sequence[int]) -> list[int]:
    """Multiples of steps, each once."""
    return _each_once([check_steps(number, "each factor") for number in numbers], "factor")


def tolerances(numbers: Sequence[float] | None) -> list[float] | None:
    """Tolerances, each once, from the coarsest to the finest."""
    if numbers is None:
        return None
    for number in numbers:
        if check_amount(number, "each tolerance") == 0:
            raise ConfigurationError("each tolerance must be positive, got 0")
    return sorted(_each_once(list(numbers), "tolerance"), reverse=True)


def count(least: int = 1) -> Callable[[int], int]:
    """A number of at least so much."""
    return lambda number: check_count(number, "it", least)


def steps(number: int | None) -> int | None:
    """A number of steps."""
    return None if number is None else check_steps(number, "it")


def _each_once(values: list[T], what: str) -> list[T]:
    twice = next((value for place, value in enumerate(values) if value in values[:place]), None)
    if twice is not None:
        raise ConfigurationError(f"the {what} {twice} is given twice")
    return values
