"""Images where the training needs them."""

from lightning_fabric import Fabric

from dynamicblocks.data import Augmentation, Batches, ImageDataset, Split
from dynamicblocks.training.config import TrainConfig


def make_batches(
    data: ImageDataset, part: Split, config: TrainConfig, fabric: Fabric, *, evaluation: bool = True
) -> Batches:
    """Batches of a split, moved to the device: for evaluation as they are, for training augmented."""
    size = config.data.test_batch_size if evaluation else None
    return Batches(
        part.to(fabric.device),
        size or config.data.batch_size,
        data.mean,
        data.std,
        seed=config.seed,
        augmentation=Augmentation() if evaluation else config.data.augmentation(data.augmentation),
        channels_last=config.hardware.channels_last is True,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
