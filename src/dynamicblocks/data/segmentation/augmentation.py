"""Random changes that images and their masks undergo alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.data.images.augmentation import flipped, shifted
from dynamicblocks.data.segmentation.masks import IGNORED
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count


@dataclass(frozen=True)
class PairAugmentation:
    """Which random changes training images and their masks undergo.

    Args:
        shift: most pixels by which a pair is moved; zeros move into the image, ignored pixels into the mask.
        flip: whether every other pair is mirrored left to right.
        quarter_turns: whether a pair is turned by 0, 90, 180 or 270 degrees, each as often; for square images.
    """

    shift: int = 0
    flip: bool = False
    quarter_turns: bool = False

    def __post_init__(self) -> None:
        check_count(self.shift, "data.shift", least=0)

    def apply(self, pairs: Tensor, draw: torch.Generator) -> Tensor:
        """The changed pairs; what changes is decided by ``draw`` alone."""
        if self.shift:
            # What moves in is zero, so for a while that is what ignored pixels are.
            pairs = _exchanged(shifted(_exchanged(pairs), self.shift, draw))
        if self.flip:
            pairs = flipped(pairs, draw)
        if self.quarter_turns:
            pairs = quarter_turned(pairs, draw)
        return pairs


def _exchanged(pairs: Tensor) -> Tensor:
    """Pairs with zero in the place of ignored pixels, and the other way round."""
    return torch.cat([pairs[:, :-1], IGNORED - pairs[:, -1:]], dim=1)


def quarter_turned(pairs: Tensor, draw: torch.Generator) -> Tensor:
    """Each pair turned by a number of quarters."""
    height, width = pairs.shape[-2:]
    if height != width:
        raise ConfigurationError(
            f"data.quarter_turns needs square images, got {width} x {height} pixels; make squares of them with "
            "data.size, or leave out the turns"
        )
    quarters = torch.randint(0, 4, (len(pairs),), generator=draw).tolist()
    return torch.stack([torch.rot90(pair, quarter, (-2, -1)) for pair, quarter in zip(pairs, quarters, strict=True)])
