"""What predictions are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

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
        spread: (n, length, features), the deviation of several samples, or None.
        probabilities: (n, classes) of the label of each series, or None.
        classes: a name for each label.
    """

    times: Tensor
    values: Tensor
    lengths: Tensor
    ids: tuple[str, ...]
    features: tuple[str, ...]
    spread: Tensor | None = None
    probabilities: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def labels(self) -> Tensor | None:
        """(n,), the number of the most probable label of each series, or None."""
        return None if self.probabilities is None else self.probabilities.argmax(1)

    def at(self, places: Tensor) -> "SeriesPrediction":
        """The same at some of the times of each series: ``places`` (n, length)."""
        here = places[..., None].expand(-1, -1, len(self.features))
        return replace(
            self,
            times=self.times.gather(1, places),
            values=self.values.gather(1, here),
            lengths=torch.full_like(self.lengths, places.shape[1]),
            spread=None if self.spread is None else self.spread.gather(1, here),
        )

    def table(self) -> Iterator[tuple[str, ...]]:
        """Rows of a table, the heading first: id, time, each feature, its spread if any, the label if any."""
        wide = self.values if self.spread is None else torch.cat([self.values, self.spread], 2)
        spreads = () if self.spread is None else tuple(f"{name}_std" for name in self.features)
        labels = None if self.labels is None else [(self.classes[each],) for each in self.labels.tolist()]
        yield ("id", "time", *self.features, *spreads, *(() if labels is None else ("label",)))
        for row, (name, length) in enumerate(zip(self.ids, self.lengths.tolist(), strict=True)):
            label = () if labels is None else labels[row]
            if not length:  # of events there may be none: a row without a time says so
                first = wide[row, 0].tolist() if wide.shape[1] else [float("nan")] * wide.shape[2]
                yield (name, "", *("" if value != value else f"{value:.9g}" for value in first), *label)
            for time, values in zip(self.times[row, :length].tolist(), wide[row, :length].tolist(), strict=True):
                yield (name, f"{time:.17g}", *(f"{value:.9g}" for value in values), *label)


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
