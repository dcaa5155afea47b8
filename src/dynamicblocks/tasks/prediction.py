"""What predictions are."""

from collections.abc import Iterable, Iterator
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


@dataclass(frozen=True, eq=False)
class SeriesPrediction:
    """Series in the units of the data; on the CPU, in the order of the input.

    Args:
        times: (n, length), float64; the last is repeated behind the end of a series.
        values: (n, length, features), float64.
        lengths: (n,): how many times each has.
        ids: a name for each series.
        features: a name for each feature.
    """

    times: Tensor
    values: Tensor
    lengths: Tensor
    ids: tuple[str, ...]
    features: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values)

    def table(self) -> Iterator[tuple[str, ...]]:
        """Rows of a table with the columns id, time and a column for each feature, the heading first."""
        yield ("id", "time", *self.features)
        for name, times, values, length in zip(self.ids, self.times, self.values, self.lengths.tolist(), strict=True):
            for time, row in zip(times[:length].tolist(), values[:length].tolist(), strict=True):
                yield (name, f"{time:.17g}", *(f"{value:.9g}" for value in row))


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
