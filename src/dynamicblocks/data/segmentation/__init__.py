"""Images with a class for each pixel, and batches of them made on the device."""

from dynamicblocks.data.segmentation.augmentation import PairAugmentation
from dynamicblocks.data.segmentation.batches import PairBatches
from dynamicblocks.data.segmentation.dataset import PairDataset, load_pairs
from dynamicblocks.data.segmentation.masks import IGNORED
from dynamicblocks.data.segmentation.pairs import FolderPairs, MemoryPairs, Pairs

__all__ = [
    "IGNORED",
    "FolderPairs",
    "MemoryPairs",
    "PairAugmentation",
    "PairBatches",
    "PairDataset",
    "Pairs",
    "load_pairs",
]
