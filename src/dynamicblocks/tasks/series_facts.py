"""What a model of time series needs to know of the data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dynamicblocks.data.series import SeriesSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.facts import deviations_in, names_in, numbers_in, wrong

# Below this share of its size a feature does not change.
NOTHING = 1e-12


@dataclass(frozen=True)
class SeriesFacts:
    """Of time series.

    Args:
        features: their names.
        classes: the names of their labels; none where labels are not told.
        mean, std: of the values that are seen in training, for each feature.
        origin, span: the first of the training's times, and from there to the last; a network is given times between
            zero and one.
        gap: a usual gap between times, as a network is given them.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: float
    span: float
    gap: float

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> "SeriesFacts":
        """Those of :meth:`stored`.

        Raises:
            ConfigurationError: one is missing, or is not what it should be.
        """
        features = names_in(facts, "features")
        mean = numbers_in(facts, "mean")
        if len(mean) != len(features):
            raise wrong(facts, "mean", f"{len(features)} numbers, one a feature")
        single = {}
        for name in ("origin", "span", "gap"):
            (single[name],) = numbers_in({name: [facts.get(name)]}, name)
            if name != "origin" and single[name] <= 0:
                raise wrong(facts, name, "a positive number")
        classes = () if facts.get("classes") == [] else names_in(facts, "classes")
        return cls(features, classes, mean, deviations_in(facts, "std", len(mean)), **single)


def facts_of_series(series: SeriesSet, *, labels: bool) -> SeriesFacts:
    """The facts of the series of a training.

    Raises:
        ConfigurationError: a feature is never observed, or never changes; or labels are asked for and there are none.
    """
    mean, std = [], []
    seen = series.observed & (series.seen | series.wanted)[..., None]
    for place, name in enumerate(series.features):
        values = series.values[..., place][seen[..., place]]
        if not len(values):
            raise ConfigurationError(f"the column {name!r} holds no value that could be trained on; leave it out")
        deviation = float(values.std(correction=0))
        if deviation <= NOTHING * float(values.abs().max()):
            raise ConfigurationError(
                f"the column {name!r} is constant ({float(values[0]):.6g}), so there is nothing to learn of it; leave "
                "it out"
            )
        mean.append(float(values.mean()))
        std.append(deviation)
    if labels and (series.labels is None or len(series.classes) < 2):
        raise ConfigurationError(
            "model.labels needs a label for each series, of two classes at least: name its column by data.label"
        )
    origin = float(series.times[:, 0].min())
    span = float(series.times.max()) - origin
    inner = torch.arange(1, series.times.shape[1]) < series.lengths[:, None]
    gap = float(series.times.diff()[inner].mean()) / span
    return SeriesFacts(series.features, series.classes if labels else (), tuple(mean), tuple(std), origin, span, gap)
