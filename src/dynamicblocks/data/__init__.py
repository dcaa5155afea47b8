"""Image data sets, and batches of them made on the device."""

from dynamicblocks.extras import needed_for

with needed_for(__name__):
    from dynamicblocks.data.augmentation import Augmentation
    from dynamicblocks.data.batches import Batches
    from dynamicblocks.data.catalogue import datasets
    from dynamicblocks.data.datasets import ImageDataset, load_dataset
    from dynamicblocks.data.splits import MemorySplit, Split

__all__ = ["Augmentation", "Batches", "ImageDataset", "MemorySplit", "Split", "datasets", "load_dataset"]
