"""Images where the training needs them."""

from lightning_fabric import Fabric

from dynamicblocks.data import Batches, ImageDataset, Split
from dynamicblocks.training.config import TrainConfig


def make_batches(data: ImageDataset, part: Split, config: TrainConfig, fabric: Fabric) -> Batches:
    """Batches of a split, moved to the device."""
    on_device = Split(part.images.to(fabric.device), part.labels.to(fabric.device))
    return Batches(
        on_device,
        config.data.batch_size,
        data.mean,
        data.std,
        seed=config.seed,
        shift=config.data.shift,
        turn=config.data.turn,
        scale=config.data.scale,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
