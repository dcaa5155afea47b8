"""Samples as tables."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.prediction import SeriesPrediction


def table_of_samples(samples: Any) -> str:
    """A CSV table: of series a row for each time, of points a row for each.

    Raises:
        ConfigurationError: they are neither.
    """
    if isinstance(samples, SeriesPrediction):
        rows: Iterator[tuple[str, ...]] = samples.table()
    elif isinstance(samples, Tensor) and samples.ndim == 2:
        rows = _points(samples)
    else:
        raise ConfigurationError(f"samples of type {type(samples).__name__} are no table; draw them in Python")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _points(samples: Tensor) -> Iterator[tuple[str, ...]]:
    yield tuple(f"x{place}" for place in range(samples.shape[1]))
    for row in samples.tolist():
        yield tuple(f"{value:.9g}" for value in row)
