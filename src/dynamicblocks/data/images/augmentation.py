"""Random changes of training images, drawn for a whole batch at once on its device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamicblocks.times import check_amount, check_count


@dataclass(frozen=True)
class Augmentation:
    """Which random changes training images undergo.

    Args:
        shift: most pixels by which an image is moved, zeros moving in (pad and crop).
        flip: whether every other image is mirrored left to right.
        cutout: side of a square that is painted over, in pixels; 0 for none.
        turn: most degrees by which it is turned.
        scale: most by which it is magnified or shrunk, as a share of its size.
    """

    shift: int = 0
    flip: bool = False
    cutout: int = 0
    turn: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        check_count(self.shift, "shift", least=0)
        check_count(self.cutout, "cutout", least=0)
        check_amount(self.turn, "turn")
        check_amount(self.scale, "scale")

    def apply(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """The changed images (uint8, or floats where they were turned); what changes is decided by ``draw`` alone."""
        if self.shift:
            images = shifted(images, self.shift, draw)
        if self.flip:
            images = flipped(images, draw)
        if self.turn or self.scale:
            images = turned(images, self.turn, self.scale, draw)
        if self.cutout:
            images = cut_out(images, self.cutout, draw)
        return images


def shifted(images: Tensor, most: int, draw: torch.Generator) -> Tensor:
    """Each image moved by up to ``most`` pixels in both directions, zeros moving in."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=draw).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    batch = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flipped(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirror = torch.rand(len(images), generator=draw).to(images.device) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), images.flip(-1), images)


def cut_out(images: Tensor, side: int, draw: torch.Generator) -> Tensor:
    """A square of each image painted with zeros, its centre anywhere in the image (DeVries & Taylor 2017)."""
    count, _, height, width = images.shape
    rows = torch.randint(0, height, (count, 1), generator=draw).to(images.device)
    columns = torch.randint(0, width, (count, 1), generator=draw).to(images.device)
    # An even side has no centre pixel: half of it lies before the drawn one, the drawn one begins the other half.
    down = torch.arange(height, device=images.device) - rows + side // 2
    right = torch.arange(width, device=images.device) - columns + side // 2
    inside_rows, inside_columns = (down >= 0) & (down < side), (right >= 0) & (right < side)
    hidden = inside_rows[:, :, None] & inside_columns[:, None, :]
    return images.masked_fill(hidden[:, None], 0)


def resized(images: Tensor, side: int) -> Tensor:
    """Images (floats) with ``side`` pixels on their shorter side; smoothed first where they become smaller."""
    height, width = images.shape[-2:]
    if min(height, width) == side:
        return images
    size = (side * height // min(height, width), side * width // min(height, width))
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def turned(images: Tensor, degrees: float, scale: float, draw: torch.Generator) -> Tensor:
    """Each image turned by up to ``degrees`` and scaled by up to a factor ``1 + scale``, about its centre; as floats.

    Values between pixels are bilinear, those beyond the border zero.
    """
    angle, size = torch.rand(2, len(images), generator=draw).to(images.device) * 2 - 1
    angle = torch.deg2rad(angle * degrees)
    # The map goes from the new image to the old one, hence the inverse of the magnification.
    size = (1 + scale) ** -size
    cosine, sine, zero = size * torch.cos(angle), size * torch.sin(angle), torch.zeros_like(size)
    maps = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)
