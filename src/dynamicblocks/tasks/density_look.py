"""How pictures of densities look: colours, frames, images side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.tasks.colours import colours_of
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.visible import in_a_picture

HELD_OUT, LEARNT, PLAIN = "#00798c", "#d1495b", "#6c757d"
# Contexts that have a colour each.
MOST_COLOURS = 10
# Points far out would make all others one dot.
OUTSIDE, MARGIN = 0.002, 0.08

Frame = tuple[tuple[float, float], tuple[float, float]]
Dots = dict[str, Any]


def frame_of(points: Tensor) -> Frame:
    """Limits of the first two numbers, with a margin and without the farthest points."""
    flat = points[:, :2].double()
    least, most = (flat.quantile(share, dim=0) for share in (OUTSIDE, 1 - OUTSIDE))
    room = MARGIN * (most - least).clamp_min(1e-9)
    (left, *below), (right, *above) = (least - room).tolist(), (most + room).tolist()
    return (left, right), (below[0], above[0]) if below else (0.0, 1.0)


def dress(axes: Axes, title: str, frame: Frame | None = None, names: Sequence[str] = ()) -> None:
    """A panel of points: its title, limits and names of the axes."""
    axes.set_title(title, fontsize=9)
    if frame is not None:
        axes.set_xlim(*frame[0])
        axes.set_ylim(*frame[1])
    for name, setter in zip(names, (axes.set_xlabel, axes.set_ylabel), strict=False):
        setter(in_a_picture(name), fontsize=8)
    plain(axes)


def plain(axes: Axes) -> None:
    """Small numbers, no frame."""
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def dots(number: int) -> Dots:
    """Size and strength of so many points."""
    return {"s": 3 if number > 500 else 8, "alpha": 0.6, "linewidths": 0}


def hues(context: Tensor | None, usual: str, number: int) -> NDArray[np.float64]:
    """A colour (number, 4) for each point: of its context where that is of few kinds, or else by its first number."""
    if context is None:
        return np.repeat(to_rgba_array(usual), number, axis=0)
    kinds, which = torch.unique(context, dim=0, return_inverse=True)
    if len(kinds) <= MOST_COLOURS:
        return np.asarray(to_rgba_array(colours_of(len(kinds)))[which.cpu().numpy()])
    first = context[:, 0].double().cpu()
    low, high = first.quantile(0.02), first.quantile(0.98)
    return np.asarray(colormaps["viridis"](((first - low) / (high - low).clamp_min(1e-9)).clamp(0, 1).numpy()))


@dataclass(frozen=True)
class Shades:
    """Pixels of images as numbers from 0 to 1.

    Args:
        levels: whole values that a pixel may have.
    """

    levels: int

    def tiles(self, images: Tensor, columns: int) -> NDArray[np.float64]:
        """Images (n, channels, height, width) in rows, with a line between: (height, width, 3)."""
        shown = (images.double().cpu() / (self.levels - 1)).clamp(0, 1).nan_to_num()
        count, channels, height, width = shown.shape
        shown = shown[:, :1].expand(-1, 3, -1, -1) if channels not in (3, 4) else shown[:, :3]
        rows = -(-count // columns)
        whole = torch.ones(rows, columns, 3, height + 1, width + 1, dtype=torch.float64)
        whole.view(-1, 3, height + 1, width + 1)[:count, :, :height, :width] = shown
        joined = whole.permute(0, 3, 1, 4, 2).reshape(rows * (height + 1), columns * (width + 1), 3)
        return np.asarray(joined[:-1, :-1].numpy())


def shades_of(known: DensityFacts) -> Shades | None:
    """Of images; None of points."""
    return None if known.levels is None else Shades(known.levels)


def show_tiles(axes: Axes, pixels: NDArray[np.float64], title: str) -> None:
    """Images side by side in a panel."""
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
