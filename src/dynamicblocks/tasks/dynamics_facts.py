"""What a neural ODE on trajectories needs to know of the data."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.series import SeriesSet
from dynamicblocks.errors import ConfigurationError

MOST = 2**24
LONGEST = 1000
# Below this share of its size a feature does not change.
NOTHING = 1e-12
# A rate is measured over this share of a series, so that noise between neighbours does not count.
LAG = 20


@dataclass(frozen=True)
class TrajectoryFacts:
    """Of trajectories.

    Args:
        features: their names.
        mean, std: of the values that are trained on, for each feature.
        origin: the first of their times.
        span: from the first to the last of them.
        rate: how fast a normalised value changes, in root mean square.
        series: of the training.
        windows: of each of them, for which states may be learnt.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: float
    span: float
    rate: float
    series: int
    windows: int

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> "TrajectoryFacts":
        """Those of :meth:`stored`.

        Raises:
            ConfigurationError: one is missing, or is not what it should be.
        """
        names = facts.get("features")
        if not isinstance(names, list) or not 1 <= len(names) <= LONGEST or not all(map(_is_name, names)):
            raise _wrong(facts, "features", "names")
        numbers = {}
        for name in ("mean", "std"):
            found = facts.get(name)
            if not isinstance(found, list) or len(found) != len(names) or not all(map(_is_number, found)):
                raise _wrong(facts, name, f"{len(names)} finite numbers, one a feature")
            numbers[name] = tuple(float(each) for each in found)
        if min(numbers["std"]) <= 0:
            raise _wrong(facts, "std", "positive")
        for name in ("origin", "span", "rate"):
            if not _is_number(facts.get(name)) or (name != "origin" and facts[name] <= 0):
                raise _wrong(facts, name, "a finite number" + (", above zero" if name != "origin" else ""))
        for name in ("series", "windows"):
            if not isinstance(facts.get(name), int) or isinstance(facts[name], bool) or not 1 <= facts[name] <= MOST:
                raise _wrong(facts, name, f"a whole number from 1 to {MOST:,}")
        return cls(
            tuple(names),
            numbers["mean"],
            numbers["std"],
            float(facts["origin"]),
            float(facts["span"]),
            float(facts["rate"]),
            int(facts["series"]),
            int(facts["windows"]),
        )


def facts_of_trajectories(series: SeriesSet, trained: Tensor, windows: int) -> TrajectoryFacts:
    """The facts of trajectories.

    Args:
        series: those of the training.
        trained: (n, length, features), bool: the values that are trained on.
        windows: of each.

    Raises:
        ConfigurationError: a feature is never observed, or never changes.
    """
    mean, std = [], []
    for place, name in enumerate(series.features):
        values = series.values[..., place][trained[..., place]]
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
    origin = float(series.times[:, 0].min())
    span = float(series.times.max()) - origin
    return TrajectoryFacts(
        series.features, tuple(mean), tuple(std), origin, span, _rate(series, trained, std, span), len(series), windows
    )


def _rate(series: SeriesSet, trained: Tensor, std: list[float], span: float) -> float:
    lag = max(1, series.times.shape[1] // LAG)
    both = trained[:, lag:] & trained[:, :-lag]
    rises = ((series.values[:, lag:] - series.values[:, :-lag]) / torch.tensor(std, dtype=torch.float64))[both]
    gaps = (series.times[:, lag:] - series.times[:, :-lag])[..., None].expand_as(both)[both]
    rate = math.sqrt(float(rises.square().sum()) / max(float(gaps.square().sum()), 1e-300)) if len(gaps) else 0.0
    return rate if math.isfinite(rate) and rate > 0 else 1 / span


def _is_name(found: Any) -> bool:
    return isinstance(found, str) and 0 < len(found) <= LONGEST


def _is_number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)


def _wrong(facts: Mapping[str, Any], name: str, expected: str) -> ConfigurationError:
    came = f"{facts[name]!r:.80}" if name in facts else "nothing"
    return ConfigurationError(f"{name} among the facts of the data must be {expected}, got {came}")
