"""Series that are made, not read: their registry, and what each of them is told."""

from collections.abc import Iterator
from dataclasses import dataclass

from dynamicblocks.data.series.checks import check_share
from dynamicblocks.data.series.dataset import SeriesDataset
from dynamicblocks.memory import check_memory
from dynamicblocks.registry import Registry
from dynamicblocks.times import check_amount, check_count, check_seed

made_series: Registry[SeriesDataset] = Registry("set of series")

# The splits, in the order of the numbers that their draws depend on.
PARTS = ("train", "validation", "test")
# More series, or points of one, are asked for by mistake.
MOST_SERIES = 10_000_000
USUAL_POINTS = 100
# Two features in float64, drawn, solved for, and stored.
BYTES_OF_A_POINT = 2 * 8 * 4


@dataclass(frozen=True)
class Wishes:
    """What is asked of made series; what is None is as it is published, or usual.

    Args:
        seed: of everything that is drawn.
        points: observed times of each series.
        series: training series.
        noise: deviation of the Gaussian noise.
        validation, test: so many series besides, as shares of the training series; one at least.
    """

    seed: int = 0
    points: int | None = None
    series: int | None = None
    noise: float | None = None
    validation: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        check_seed(self.seed, "data.seed")
        if self.points is not None:
            check_count(self.points, "data.points", least=2, most=MOST_SERIES)
        if self.series is not None:
            check_count(self.series, "data.series", most=MOST_SERIES)
        if self.noise is not None:
            check_amount(self.noise, "data.noise")
        for name in PARTS[1:]:
            check_share(getattr(self, name), f"data.{name}")

    def counts(self, usual: int) -> dict[str, int]:
        """Series of each split.

        Raises:
            ConfigurationError: they need more memory than there is.
        """
        train = usual if self.series is None else self.series
        points = USUAL_POINTS if self.points is None else self.points
        check_memory(BYTES_OF_A_POINT * train * points, f"making {train:,} series of {points:,} points")
        return {
            "train": train,
            "validation": max(1, round(self.validation * train)),
            "test": max(1, round(self.test * train)),
        }


def names(part: str, number: int) -> Iterator[str]:
    """The ids of the series of a split."""
    return (f"{part}-{row}" for row in range(number))
