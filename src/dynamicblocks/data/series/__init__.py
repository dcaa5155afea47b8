"""Time series with times of their own and missing values: made on the fly, from files, in batches."""

from dynamicblocks.data.series.batches import SeriesBatches
from dynamicblocks.data.series.catalogue import load_series
from dynamicblocks.data.series.dataset import SeriesDataset
from dynamicblocks.data.series.division import DIVISIONS, divided
from dynamicblocks.data.series.event_catalogue import load_events
from dynamicblocks.data.series.event_files import read_events
from dynamicblocks.data.series.events import EventDataset, EventSet
from dynamicblocks.data.series.files import Columns, read_series
from dynamicblocks.data.series.made import made_series
from dynamicblocks.data.series.series import SeriesBatch, SeriesSet

__all__ = [
    "DIVISIONS",
    "Columns",
    "EventDataset",
    "EventSet",
    "SeriesBatch",
    "SeriesBatches",
    "SeriesDataset",
    "SeriesSet",
    "divided",
    "load_events",
    "load_series",
    "made_series",
    "read_events",
    "read_series",
]
