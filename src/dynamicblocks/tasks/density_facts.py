"""What a flow needs to know of the points that it is trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from dynamicblocks.data.densities.points import PointSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.facts import deviations_in, names_in, numbers_in, wrong

# Beyond these no flow of this package was ever trained, and a file asks for memory.
MOST_NUMBERS, MOST_LEVELS, MOST_DIMENSIONS = 2**22, 2**16, 4
# Below this share of its size a column does not change.
NOTHING = 1e-12


@dataclass(frozen=True)
class DensityFacts:
    """Of points.

    Args:
        shape: of a point: (features,), or (channels, height, width) of an image.
        levels: whole values that a pixel may have, from 0 on; None where points are real numbers.
        features: their names; none of images.
        mean, std: of each feature in training; none of images.
        context_names: of the numbers that a point depends on.
        context_mean, context_std: of these in training.
    """

    shape: tuple[int, ...]
    levels: int | None
    features: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    context_names: tuple[str, ...]
    context_mean: tuple[float, ...]
    context_std: tuple[float, ...]

    @property
    def numbers(self) -> int:
        """Of a point."""
        return math.prod(self.shape)

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> "DensityFacts":
        """Those of :meth:`stored`.

        Raises:
            ConfigurationError: one is missing, or is not what it should be.
        """
        shape = facts.get("shape")
        if (
            not isinstance(shape, list)
            or not 1 <= len(shape) <= MOST_DIMENSIONS
            or not all(map(_is_count, shape))
            or math.prod(shape) > MOST_NUMBERS
        ):
            raise wrong(facts, "shape", f"whole numbers whose product is {MOST_NUMBERS:,} at most")
        levels = facts.get("levels")
        if "levels" not in facts or not (levels is None or (_is_count(levels) and 2 <= levels <= MOST_LEVELS)):
            raise wrong(facts, "levels", f"null, or a whole number from 2 to {MOST_LEVELS:,}")
        features, mean, std = _columns(facts, "features", "mean", "std")
        if len(features) != (shape[0] if levels is None else 0) or (levels is None and len(shape) != 1):
            raise wrong(facts, "features", f"the names of points of shape {shape}, none of images")
        return cls(
            tuple(shape), levels, features, mean, std, *_columns(facts, "context_names", "context_mean", "context_std")
        )


def facts_of_points(points: PointSet) -> DensityFacts:
    """The facts of the points of a training.

    Raises:
        ConfigurationError: a column never changes.
    """
    features = () if points.levels else tuple(points.features)
    mean, std = _measured(points.points, features) if features else ((), ())
    names = tuple(points.context_names)
    context_mean, context_std = ((), ()) if points.context is None else _measured(points.context, names, context=True)
    return DensityFacts(tuple(points.shape), points.levels, features, mean, std, names, context_mean, context_std)


def _measured(
    values: Tensor, names: tuple[str, ...], *, context: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each column; those of a context that are zero or one stay as they are."""
    means, deviations = [], []
    for name, column in zip(names, values.double().unbind(1), strict=True):
        if context and bool(((column == 0) | (column == 1)).all()):
            means.append(0.0)
            deviations.append(1.0)
            continue
        deviation = float(column.std(correction=0))
        if deviation <= NOTHING * float(column.abs().max()):
            raise ConfigurationError(
                f"the column {name!r} is constant ({float(column[0]):.6g}), so "
                f"{'nothing is learnt of it' if context else 'it has no density'}; leave it out"
            )
        means.append(float(column.mean()))
        deviations.append(deviation)
    return tuple(means), tuple(deviations)


def _columns(
    facts: Mapping[str, Any], names: str, mean: str, std: str
) -> tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]:
    if facts.get(names) == [] and facts.get(mean) == [] and facts.get(std) == []:
        return (), (), ()
    found, means = names_in(facts, names), numbers_in(facts, mean)
    if len(means) != len(found):
        raise wrong(facts, mean, f"{len(found)} numbers, one a column")
    return found, means, deviations_in(facts, std, len(found))


def _is_count(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and found >= 1
