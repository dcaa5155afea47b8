"""Series by name: made on the fly, or read from a file."""

from collections.abc import Sequence
from pathlib import Path

from dynamicblocks.data.series import dynamics, periodic, spirals  # noqa: F401  (they register)
from dynamicblocks.data.series.dataset import SeriesDataset
from dynamicblocks.data.series.files import Columns, read_series, source_of
from dynamicblocks.data.series.made import Wishes, made_series
from dynamicblocks.data.series.splits import split_series
from dynamicblocks.errors import ConfigurationError


def load_series(
    name: str,
    *,
    seed: int = 0,
    points: int | None = None,
    series: int | None = None,
    noise: float | None = None,
    id: str = "id",
    time: str = "time",
    values: Sequence[str] | None = None,
    label: str | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    data_dir: str | None = None,
) -> SeriesDataset:
    """Series in three splits.

    Args:
        name: ``spirals``, ``periodic``, ``lotka_volterra``, ``spiral``; or ``csv:PATH``, ``parquet:PATH``.
        seed: of what is drawn: of made series, or of the split of a file.
        points: observed times of each made series.
        series: how many are made for training.
        noise: its deviation in made series.
        id, time: the columns of a file that say of which series a row is, and when.
        values: its columns of values; by default all others that hold numbers.
        label: its column of a label for each series, if any.
        validation, test: shares of a file's series that are held out; of made series so many are made besides.
        data_dir: where a relative path begins.

    Raises:
        ConfigurationError: there is no such name, or something asked for cannot be.
        StorageError: a file is missing or damaged, or its rows are not what they should be.
    """
    wishes = Wishes(seed, points, series, noise, validation, test)
    source = source_of(name, "set of series", made_series)
    if source is None:
        if (id, time, values, label) != ("id", "time", None, None):
            raise ConfigurationError(f"names of columns are of files, and {name!r} is made: leave them out")
        return made_series.create(name, wishes)
    kind, where = source
    for option, given in (("points", points), ("series", series), ("noise", noise)):
        if given is not None:
            raise ConfigurationError(f"data.{option} is of series that are made, and {name!r} is a file: leave it out")
    path = Path(data_dir or "") / where
    found = read_series(
        path,
        kind,
        Columns(id, time, (values,) if isinstance(values, str) else None if values is None else tuple(values), label),
    )
    return split_series(found, where, validation, test, seed)
