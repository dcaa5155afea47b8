"""Data: image data sets, fields, pairs of images and masks; and batches of them made on the device."""

from dynamicblocks.extras import needed_for

with needed_for(__name__):
    from dynamicblocks.data.images import (
        Augmentation,
        ImageBatches,
        ImageDataset,
        MemorySplit,
        Split,
        datasets,
        load_dataset,
    )

__all__ = ["Augmentation", "ImageBatches", "ImageDataset", "MemorySplit", "Split", "datasets", "load_dataset"]
