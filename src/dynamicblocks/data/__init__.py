"""Image data sets, and batches of them made on the device."""

from dynamicblocks.data.batches import Batches
from dynamicblocks.data.datasets import ImageDataset, Split, datasets, load_dataset

__all__ = ["Batches", "ImageDataset", "Split", "datasets", "load_dataset"]
