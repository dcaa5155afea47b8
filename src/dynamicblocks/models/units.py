"""Units: how many a depth has, and the times and the basis of a block of so many."""

from dataclasses import replace

from dynamicblocks.controls import Basis, as_basis
from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.times import MAX_CONTROLS, Grid, check_amount, check_count, uniform


def in_units(units: int, step: float, controls: Basis | str | int) -> tuple[Basis, Grid]:
    """A basis on ``units`` intervals, unless it has a size of its own, and the grid of as many steps of that length.

    >>> in_units(2, 0.5, "linear")
    (PiecewiseLinear(size=3, knots=None), Grid(points=(0.0, 0.5, 1.0)))
    """
    check_count(units, "units", most=MAX_CONTROLS)
    if check_amount(step, "step") == 0:
        raise ConfigurationError("step, the length of a step, must be positive, got 0")
    basis = as_basis(controls)
    if basis.size is None:
        basis = replace(basis, size=basis.size_of(units))
    return basis, uniform(0.0, units * step, steps=units)


def check_layer(layer: object) -> None:
    """Raise unless it is a name, or a function that may make a layer."""
    if not (isinstance(layer, str) or callable(layer)):
        raise ConfigurationError(
            f"layer must be a name or a function that makes a layer of a width, got {brief(layer)}"
        )


def units_of_depth(depth: int, stages: int, layers: int = 2) -> int:
    """How many units of so many layers each stage has, between the opening and the head.

    >>> units_of_depth(20, stages=3), units_of_depth(74, stages=3, layers=4)
    (3, 6)
    """
    units, rest = divmod(check_count(depth, "depth", most=MAX_CONTROLS * layers) - 2, layers * stages)
    if rest or units < 1:
        raise ConfigurationError(f"depth must be {layers * stages} n + 2 for n = 1, 2, ..., got {depth}")
    return units
