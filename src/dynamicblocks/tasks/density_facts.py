"""What a flow needs to know of the points that it is trained on."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.draws import generator
from dynamicblocks.flows.images import Dequantise
from dynamicblocks.tasks.facts import MOST_CHANNELS, deviations_in, names_in, numbers_in, wrong

# Beyond these no flow of this package was ever trained, and a file asks for memory.
MOST_NUMBERS, MOST_LEVELS, MOST_DIMENSIONS = 2**22, 2**16, 4
# Images by which their logits are measured.
MEASURED = 10_000
# Images for each level of a pixel, so that it is known how often each is there.
COUNTED = 4


@dataclass(frozen=True)
class DensityFacts:
    """Of points.

    Args:
        shape: of a point: (features,), or (channels, height, width) of an image.
        levels: whole values that a pixel may have, from 0 on; None where points are real numbers.
        features: their names; none of images.
        mean, std: of each feature in training; of images of the logits of each pixel, or of all where there are more
            than 4,096.
        context_names: of the numbers that a point depends on.
        context_mean, context_std: of these in training.
        countable: whether there were so many images that the frequencies of a pixel's values say something.
    """

    shape: tuple[int, ...]
    levels: int | None
    features: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    context_names: tuple[str, ...]
    context_mean: tuple[float, ...]
    context_std: tuple[float, ...]
    countable: bool = False

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
        if len(shape) != (1 if levels is None else 3):
            raise wrong(facts, "shape", "one number of points, three of images")
        features: tuple[str, ...] = ()
        if levels is None:
            features, mean, std = _columns(facts, "features", "mean", "std")
        else:
            mean = numbers_in(facts, "mean")
            std = deviations_in(facts, "std", len(mean))
        if len(mean) not in (math.prod(shape), levels and 1) or facts.get("features") != list(features):
            raise wrong(facts, "features", f"the names of points of shape {shape}, none of images")
        countable = facts.get("countable", False)
        if not isinstance(countable, bool):
            raise wrong(facts, "countable", "true or false")
        context = _columns(facts, "context_names", "context_mean", "context_std")
        return cls(tuple(shape), levels, features, mean, std, *context, countable)


def facts_of_points(points: PointSet, alpha: float = 1e-6) -> DensityFacts:
    """The facts of the points of a training, of which no column is constant.

    Args:
        points: those of the training.
        alpha: of images, that of their logits.
    """
    if points.levels:
        some = points.points[:MEASURED].float()
        logits = Dequantise(points.levels, alpha).to_base(some, generator=generator(0)).value.double()
        mean, std = _measured(logits.flatten(1) if logits[0].numel() <= MOST_CHANNELS else logits.reshape(-1, 1))
    else:
        mean, std = _measured(points.points)
    context_mean, context_std = _measured(points.context, binary=True)
    countable = points.levels is not None and len(points) >= COUNTED * points.levels
    return DensityFacts(
        points.shape, points.levels, points.features, mean, std, points.context_names, context_mean, context_std,
        countable,
    )  # fmt: skip


def _measured(values: Tensor | None, *, binary: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each column; with ``binary`` those of zeros and ones alone stay as they are."""
    if values is None:
        return (), ()
    mean, std = values.mean(0), values.std(0, correction=0)
    if binary:
        stays = ((values == 0) | (values == 1)).all(0)
        mean, std = mean.where(~stays, 0.0), std.where(~stays, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


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
