"""Series written into files."""

from pathlib import Path

from dynamicblocks.data.series.files import KINDS, encoded
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.disk import write_atomically
from dynamicblocks.visible import legible


def check_series_file(path: Path) -> str:
    """The kind of file that a name ends with.

    Raises:
        ConfigurationError: it is none that series are written into.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigurationError(f"series are written into files that end in {' or '.join(KINDS)}, got {legible(path)}")
    return kind


def write_series(path: Path, series: SeriesSet) -> None:
    """Write series into a file that is whole or not there; ``csv:PATH`` or ``parquet:PATH`` reads them.

    Args:
        path: it ends in .csv or .parquet.
        series: all of their times; values that are missing stay so.

    Raises:
        ConfigurationError: the name ends otherwise, or a feature has the name of another column.
        MissingPackageError: pyarrow is not installed.
        StorageError: it cannot be written.
    """
    write_atomically(path, encoded(series, check_series_file(path)))
