"""Fields: pairs of inputs and targets on a grid of one, two or three dimensions."""

from dynamicblocks.data.fields.dataset import FieldDataset, load_fields
from dynamicblocks.data.fields.files import FieldPairs, read_pairs
from dynamicblocks.data.fields.statistics import Channels, channels_of

__all__ = ["Channels", "FieldDataset", "FieldPairs", "channels_of", "load_fields", "read_pairs"]
