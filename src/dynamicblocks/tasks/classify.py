"""Images into classes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamicblocks.data import ImageBatches, ImageDataset
from dynamicblocks.data.images.augmentation import resized
from dynamicblocks.data.images.batches import affine_of, normalised
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks.facts import ImageFacts, check_same_images, facts_of_images
from dynamicblocks.tasks.given import given_images
from dynamicblocks.tasks.images import DataConfig, is_folder
from dynamicblocks.tasks.knowing import Knowing
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.tasks.prediction import Prediction, predicted
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.times import check_amount
from dynamicblocks.training.predicting import check_rows
from dynamicblocks.training.task import HERE, LOSS, Batches, Figure, Place, SplitName

Labelled = tuple[Tensor, Tensor]
"""Images and their labels."""

ACCURACY = Figure("accuracy", ".2%", higher=True)

# Of images that are not read yet. What is possible does not depend on them.
CHANNELS, CLASSES = 3, 10
# Images of a rehearsal.
FEW = 2


@tasks.register("classify")
@dataclass(frozen=True)
class Classify(Knowing[Labelled]):
    """Images into classes, by cross-entropy.

    Args:
        data: images.
        model: network.
        label_smoothing: share of the target spread evenly over the classes.
    """

    name: ClassVar[str] = "classify"
    kind_of_facts: ClassVar[type[ImageFacts]] = ImageFacts
    unit: ClassVar[str] = "images"
    bears_half: ClassVar[bool] = True
    figures: ClassVar[tuple[Figure, ...]] = (LOSS, ACCURACY)

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if check_amount(self.label_smoothing, "label_smoothing") >= 1:
            raise ConfigurationError(f"label_smoothing must be below 1, got {self.label_smoothing}")

    @property
    def title(self) -> str:
        """Data set and model."""
        return f"{self.data.name.partition(':')[0]}-{self.model.name}"

    @cached_property
    def images(self) -> ImageDataset:
        """The data set."""
        images = self.data.load()
        if "known" in vars(self):  # they are those of a run, and the data may have changed since
            check_same_images(self.data.name, images, self.known)
        return images

    @cached_property
    def known(self) -> ImageFacts:
        """What the network needs to know of the images."""
        return facts_of_images(self.images, self.images.white, fitted=is_folder(self.data.name))

    def check(self) -> None:
        self.data.check()

    def load(self) -> str:
        return self.images.note

    def build(self) -> nn.Module:
        return self.model.create(self.known.channels, len(self.known.classes))

    def sketch(self) -> nn.Module:
        return self.model.create(CHANNELS, CLASSES)

    def batches(self, split: SplitName, place: Place) -> ImageBatches:
        part = getattr(self.images, split)
        return ImageBatches(
            part.with_workers(place.workers).to(place.device),
            self.data.batch_size,
            self.known.mean,
            self.known.std,
            seed=place.seed,
            augmentation=self.data.augmentation(self.images.augmentation),
            evaluation_size=self.data.test_batch_size,
            progressive=self.data.progressive,
            channels_last=place.channels_last,
            rank=place.rank,
            world=place.world,
        )

    def rehearsal(self, batches: Batches[Labelled]) -> Iterator[Labelled]:
        images, labels = (each[:FEW] for each in next(batches.training(0)))
        if not self.data.progressive:
            self.data.check_changes(min(images.shape[-2:]))
        for side in dict.fromkeys(side for _, side in self.data.progressive) or (None,):
            yield images if side is None else resized(images, side), labels

    @property
    def sums(self) -> tuple[str, ...]:
        return ("images", "loss", "correct")

    def loss(self, net: nn.Module, batch: Labelled) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits = net(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            return loss, _sums(loss * len(labels), logits, labels)

    def score(self, net: nn.Module, batch: Labelled) -> Tensor:
        images, labels = batch
        logits = net(images).float()
        return _sums(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["images"], "accuracy": sums["correct"] / sums["images"]}

    def answered(self, net: nn.Module, batch: Labelled) -> Labelled:
        images, _ = batch
        return images, net(images).argmax(dim=1)

    def predict(
        self, net: nn.Module, x: Any, place: Place = HERE, *, batch_size: int | None = None, resize: bool = False
    ) -> Prediction:
        known, rows = self.known, check_rows(batch_size, self.data.test_batch_size or self.data.batch_size)
        given = given_images(x, known, resize=resize)
        affine = affine_of(known.mean, known.std, place.device)

        def normalised_as_in_evaluation(pixels: Tensor) -> Tensor:
            return normalised(pixels.to(place.device), affine).to(place.dtype)

        return predicted(net, map(normalised_as_in_evaluation, given.batches(rows)), place, known.classes)


def _sums(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    # Filled on the device: a number that is sent there would wait for it.
    return torch.stack([torch.full_like(loss, len(labels)), loss, (logits.argmax(dim=1) == labels).sum()])
