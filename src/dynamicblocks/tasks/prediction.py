"""What predictions are."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamicblocks.training.predicting import answer_of, together
from dynamicblocks.training.task import Place


@dataclass(frozen=True, eq=False)
class Prediction:
    """Classes of images, or of their pixels; on the CPU, in the order of the input.

    Args:
        labels: the number of the most probable class: (B,), or (B, H, W) of masks.
        probabilities: of all classes: (B, classes), or (B, classes, H, W).
        classes: the names of all classes, by number.
    """

    labels: Tensor
    probabilities: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the class of each image; masks have none."""
        return tuple(self.classes[label] for label in self.labels.tolist()) if self.labels.ndim == 1 else ()


@dataclass(frozen=True, eq=False)
class FieldPrediction:
    """Fields in the units of the targets of the training; on the CPU, in the order of the input.

    Args:
        values: (B, channels, *space), float64.
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)


def predicted(net: nn.Module, batches: Iterable[Tensor], place: Place, classes: tuple[str, ...]) -> Prediction:
    """What a network that gives a number for each class says of normalised images."""
    labels, probabilities = [], []
    layout = torch.channels_last if place.channels_last else torch.contiguous_format
    for given in batches:
        # With strides as in evaluation, also of a single channel: by them a convolution chooses how it rounds.
        images = torch.empty_like(given, memory_format=torch.contiguous_format).copy_(given)
        answer = answer_of(net, images.contiguous(memory_format=layout))
        answer = answer.to(torch.promote_types(answer.dtype, torch.float32))
        labels.append(answer.argmax(dim=1).cpu())
        probabilities.append(answer.softmax(dim=1).cpu())
    return Prediction(together(labels), together(probabilities), classes)
