"""Time series with times of their own and missing values."""

from dynamicblocks.data.series.series import SeriesBatch, SeriesSet

__all__ = ["SeriesBatch", "SeriesSet"]
