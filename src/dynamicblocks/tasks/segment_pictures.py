"""Pictures of masks: the image, the true classes, the predicted ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.tasks.colours import IGNORED_COLOUR, colours_of
from dynamicblocks.training.storage import write_picture
from dynamicblocks.visible import in_a_picture

# Classes in a legend at most, and entries beside each other.
NAMED, BESIDE = 20, 5


def map_of(classes: int) -> ListedColormap:
    """A colour for each class, and white behind them for pixels that are ignored."""
    return ListedColormap([*colours_of(classes), IGNORED_COLOUR])


def draw_masks(images: Tensor, masks: Tensor, predicted: Tensor, classes: Sequence[str], path: Path) -> None:
    """A row for each image: image, truth, prediction, and under them what the colours mean.

    Args:
        images: uint8 (n, 1 or 3, height, width), as they were read.
        masks, predicted: class indices (n, height, width); in masks others are ignored pixels.
        classes: their names.
        path: of the PNG file.
    """
    count, _, height, width = images.shape
    side = 2.6
    entries = min(len(classes), NAMED) + 1
    legend = 0.3 * -(-entries // BESIDE) + 0.15
    tall = side * height / width
    figure = Figure(figsize=(3 * side + 0.3, count * (tall + 0.1) + 0.3 + legend), layout="constrained")
    drawn = figure.subplots(count, 3, squeeze=False)
    palette, last = map_of(len(classes)), len(classes)
    for axes, image, mask, answer in zip(drawn, images, masks, predicted, strict=True):
        truth = mask.numpy()
        axes[0].imshow(_shown(image.numpy()), cmap="gray", vmin=0, vmax=255)
        for each, indices in zip(axes[1:], (np.where(truth < last, truth, last), answer.numpy()), strict=True):
            each.imshow(indices, cmap=palette, vmin=-0.5, vmax=last + 0.5, interpolation="nearest")
        for each in axes:
            each.set_xticks([])
            each.set_yticks([])
    for axes, title in zip(drawn[0], ("input", "truth", "prediction"), strict=True):
        axes.set_title(title, fontsize=10)
    patches = [Patch(facecolor=palette(place), label=in_a_picture(name)) for place, name in enumerate(classes[:NAMED])]
    if bool((masks >= last).any()):
        patches.append(Patch(facecolor=IGNORED_COLOUR, edgecolor="black", label="ignored"))
    figure.legend(handles=patches, loc="outside lower center", ncols=BESIDE, frameon=False, fontsize=9)
    write_picture(path, figure.savefig, dpi=110)


def _shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
