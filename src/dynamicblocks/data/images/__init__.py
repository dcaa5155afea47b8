"""Image data sets, and batches of them made on the device."""

from dynamicblocks.data.images.augmentation import Augmentation
from dynamicblocks.data.images.batches import ImageBatches
from dynamicblocks.data.images.catalogue import datasets
from dynamicblocks.data.images.datasets import ImageDataset, load_dataset
from dynamicblocks.data.images.splits import MemorySplit, Split

__all__ = ["Augmentation", "ImageBatches", "ImageDataset", "MemorySplit", "Split", "datasets", "load_dataset"]
