"""Images into a class for each pixel."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamicblocks.data.segmentation import IGNORED, PairAugmentation, PairBatches, PairDataset, load_pairs
from dynamicblocks.data.segmentation.batches import normalised
from dynamicblocks.data.segmentation.dataset import check_named
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.tasks.facts import ImageFacts, check_same_images, facts_of_images
from dynamicblocks.tasks.given import given_images
from dynamicblocks.tasks.images import check_side
from dynamicblocks.tasks.knowing import Knowing
from dynamicblocks.tasks.model import ModelConfig
from dynamicblocks.tasks.prediction import Prediction, predicted
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.times import check_count, check_seed
from dynamicblocks.training.evaluation import evaluation_mode
from dynamicblocks.training.predicting import check_rows
from dynamicblocks.training.task import HERE, LOSS, Batches, Figure, Place, SplitName

Masked = tuple[Tensor, Tensor]
"""Images (n, channels, height, width) and their masks (n, height, width), int64."""

WEIGHTINGS = ("none", "frequency")
# Of images that are not read yet. What is possible does not depend on them.
CHANNELS, CLASSES = 3, 10
# Images of a rehearsal; of a picture, and of those that are looked through for it.
FEW, SHOWN, SEARCHED = 2, 4, 32


@dataclass(frozen=True)
class MaskConfig:
    """Images with masks of class indices, 255 where a pixel counts nowhere.

    Changes of training images, which masks undergo alike, are the usual ones of the data set where they are left out.

    Args:
        name: qtips, made on the fly; or folder:PATH with PATH/train, val and test (or one of the two), in each of
            them images/NAME.* and masks/NAME.*, and perhaps PATH/classes.txt, a name a line.
        size: side of the images in pixels: of Q-tips 64 by default; those of a folder are used as they are, all of one
            size, or made squares of this side.
        validation: share of the training images held out to choose the checkpoint, where a folder has only val or test.
        split_seed: which images those are, or which Q-tips are made.
        train_images: train on so many images; by default on all, or on 1,024 Q-tips.
        batch_size: images in a training step, over all processes.
        test_batch_size: images in a step of evaluation; by default as in training.
        shift: most pixels by which training images are moved at random; ignored pixels move into the mask.
        flip: whether they are mirrored at random.
        quarter_turns: whether they are turned at random by 0, 90, 180 or 270 degrees.
    """

    name: str = "qtips"
    size: int | None = None
    validation: float = 0.1
    split_seed: int = 0
    train_images: int | None = None
    batch_size: int = 16
    test_batch_size: int | None = None
    shift: int | None = None
    flip: bool | None = None
    quarter_turns: bool | None = None

    def __post_init__(self) -> None:
        check_seed(self.split_seed, "data.split_seed")
        check_count(self.batch_size, "data.batch_size")
        for option in ("size", "train_images", "test_batch_size"):
            if getattr(self, option) is not None:
                check_count(getattr(self, option), f"data.{option}")
        if self.shift is not None:
            check_count(self.shift, "data.shift", least=0)

    def check(self) -> None:
        """Raise for what cannot be, as far as it is known before images are read."""
        if self.size is not None:
            check_side(self.size)
        side = check_named(self.name, self.size)
        if side is not None:
            self.check_changes(side)

    def check_changes(self, side: int) -> None:
        """Raise for changes that leave nothing of images of this side."""
        if self.shift is not None and self.shift >= side:
            raise ConfigurationError(f"data.shift must be below the side of the images, {side}, got {self.shift}")

    def load(self) -> PairDataset:
        """The images and masks, split."""
        return load_pairs(self.name, self.validation, self.split_seed, size=self.size, train_images=self.train_images)

    def augmentation(self, usual: PairAugmentation) -> PairAugmentation:
        """What is configured, and what is usual where nothing is."""
        return PairAugmentation(
            shift=usual.shift if self.shift is None else self.shift,
            flip=usual.flip if self.flip is None else self.flip,
            quarter_turns=usual.quarter_turns if self.quarter_turns is None else self.quarter_turns,
        )


def default_model() -> ModelConfig:
    """A network at the resolution of the images whose pixels see far from the start: what f finds, a solve spreads."""
    layer = "semi_implicit(explicit='preact_double', operator='depthwise(scale=8)')"
    return ModelConfig("dynamicnet", widths=(16,), units=3, layer=layer, integrator="imex(balanced=True)")


@tasks.register("segment")
@dataclass(frozen=True)
class Segment(Knowing[Masked]):
    """Images into a class for each pixel, by cross-entropy.

    The IoU of a class is the number of pixels that are of it in truth and in prediction, over the number of those that
    are in either, counted over all images together. Ignored pixels are in none.

    Args:
        data: images and masks.
        model: network.
        class_weights: of the classes in the loss: none; frequency, one less the share of the class in the training
            masks; or a number for each class.
    """

    name: ClassVar[str] = "segment"
    kind_of_facts: ClassVar[type[ImageFacts]] = ImageFacts
    unit: ClassVar[str] = "images"
    bears_half: ClassVar[bool] = True
    figures: ClassVar[tuple[Figure, ...]] = (
        LOSS,
        Figure("mean_iou", ".2%", higher=True, title="mean IoU"),
        Figure("pixel_accuracy", ".2%", higher=True),
    )

    data: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=default_model)
    class_weights: Literal["none", "frequency"] | tuple[float, ...] = "frequency"

    def __post_init__(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str):
            if weights not in WEIGHTINGS:
                raise unknown_name("weighting of classes", weights, WEIGHTINGS)
        elif not all(math.isfinite(each) and each >= 0 for each in weights) or not any(weights):
            raise ConfigurationError(
                f"class_weights must be finite, none negative and not all zero, got {list(weights)}"
            )

    @property
    def title(self) -> str:
        """Data and model."""
        kind, _, where = self.data.name.partition(":")
        return f"{Path(where).name or kind}-{self.model.name}"

    # Data and network

    @cached_property
    def pairs(self) -> PairDataset:
        """The data."""
        pairs = self.data.load()
        if "known" in vars(self):  # they are those of a run, and the data may have changed since
            check_same_images(self.data.name, pairs, self.known)
        return pairs

    @cached_property
    def known(self) -> ImageFacts:
        """What the network needs to know of the images and masks."""
        return facts_of_images(self.pairs)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.known.classes

    def check(self) -> None:
        self.data.check()

    def load(self) -> str:
        named = zip(self.classes, self.weights.tolist(), strict=True)
        weights = ", ".join(f"{name} {weight:.4g}" for name, weight in named)
        return self.pairs.note if self.class_weights == "none" else f"{self.pairs.note}; weights of classes: {weights}"

    @cached_property
    def weights(self) -> Tensor:
        """The weight of each class.

        Raises:
            ConfigurationError: there is not one for each class, or none that occurs has any.
        """
        counts = torch.tensor(self.pairs.counts, dtype=torch.float64)
        if self.class_weights == "frequency":
            weights = 1 - counts / counts.sum()
        elif self.class_weights == "none":
            weights = torch.ones_like(counts)
        else:
            weights = torch.tensor(self.class_weights, dtype=torch.float64)
        if len(weights) != len(counts):
            raise ConfigurationError(
                f"class_weights must hold a number for each of the {len(counts)} classes "
                f"({', '.join(self.classes)}), got {len(weights)}"
            )
        if not (weights * counts).any():
            raise ConfigurationError(
                "class_weights give no weight to any pixel of the training masks: their classes are "
                f"{', '.join(name for name, count in zip(self.classes, counts.tolist(), strict=True) if count)}"
            )
        return weights

    def build(self) -> nn.Module:
        return self.model.create(self.known.channels, len(self.classes), dense=True)

    def sketch(self) -> nn.Module:
        return self.model.create(CHANNELS, CLASSES, dense=True)

    def batches(self, split: SplitName, place: Place) -> PairBatches:
        return PairBatches(
            getattr(self.pairs, split).with_workers(place.workers).to(place.device),
            self.data.batch_size,
            self.known.mean,
            self.known.std,
            seed=place.seed,
            augmentation=self.data.augmentation(self.pairs.augmentation),
            evaluation_size=self.data.test_batch_size,
            dtype=place.dtype,
            channels_last=place.channels_last,
            rank=place.rank,
            world=place.world,
        )

    def rehearsal(self, batches: Batches[Masked]) -> Iterator[Masked]:
        images, masks = next(batches.training(0))
        self.data.check_changes(min(images.shape[-2:]))
        yield images[:FEW], masks[:FEW]

    # Numbers

    @property
    def sums(self) -> tuple[str, ...]:
        places = range(len(self.classes))
        # By class, so that figures are those of all pixels together, not means over batches.
        by_class = (f"{kind}_{place}" for kind in ("intersection", "union") for place in places)
        return ("images", "loss", "weight", "pixels", *by_class)

    def loss(self, net: nn.Module, batch: Masked) -> tuple[Tensor, Tensor]:
        images, masks = batch
        logits = net(images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = self.weights.to(logits)
        total = F.cross_entropy(logits, masks, weights, ignore_index=IGNORED, reduction="sum")
        with torch.no_grad():
            counts = confusion(masks, logits.argmax(dim=1), len(weights))
            of_truth = counts.sum(dim=1)
            weight = (weights * of_truth).sum()
            hits = counts.diagonal()
            few = torch.stack([hits.new_full((), len(images)), total.detach().to(hits), weight.to(hits), counts.sum()])
            sums = torch.cat([few, hits, of_truth + counts.sum(dim=0) - hits])
        # Of a batch without any weight the loss is zero, and so is its gradient.
        return total / weight.to(total).clamp(min=torch.finfo(total.dtype).tiny), sums

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        places = range(len(self.classes))
        hits, unions = ([sums[f"{kind}_{place}"] for place in places] for kind in ("intersection", "union"))
        # A class that is neither in the masks nor predicted has no IoU.
        ious = {place: hits[place] / unions[place] for place in places if unions[place]}
        return {
            "loss": share(sums["loss"], sums["weight"]),
            "mean_iou": share(sum(ious.values()), len(ious)),
            "pixel_accuracy": share(sum(hits), sums["pixels"]),
            **{f"iou_{self.classes[place]}": iou for place, iou in ious.items()},
        }

    # What the commands ask for

    def answered(self, net: nn.Module, batch: Masked) -> Masked:
        images, _ = batch
        return images, net(images).argmax(dim=1)

    def predict(
        self, net: nn.Module, x: Any, place: Place = HERE, *, batch_size: int | None = None, resize: bool = False
    ) -> Prediction:
        known, rows = self.known, check_rows(batch_size, self.data.test_batch_size or self.data.batch_size)
        given = given_images(x, known, resize=resize, any_size=True)
        dtype = torch.promote_types(place.dtype, torch.float32)

        def normalised_as_in_evaluation(pixels: Tensor) -> Tensor:
            return normalised(pixels.to(place.device), known.mean, known.std, dtype).to(place.dtype)

        return predicted(net, map(normalised_as_in_evaluation, given.batches(rows)), place, known.classes)

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        (stacked,) = self.pairs.test.stream([self._shown()])
        images, masks = self.batches("test", place).parted(stacked.to(place.device))
        dtype = next((weight.dtype for weight in net.parameters()), images.dtype)
        with evaluation_mode(net), torch.inference_mode():
            predicted = net(images.to(dtype)).argmax(dim=1)
        # matplotlib is imported where something is drawn, not with every command.
        from dynamicblocks.tasks.segment_pictures import draw_masks

        path = folder / "segmentation.png"
        draw_masks(stacked[:, :-1], masks.cpu(), predicted.cpu(), self.classes, path)
        return [path]

    def _shown(self) -> Tensor:
        """Some of the first test images: those with classes that the others do not have, then the first ones."""
        first = torch.arange(min(SEARCHED, len(self.pairs.test)))
        (stacked,) = self.pairs.test.stream([first])
        seen: set[int] = set()
        new: list[int] = []
        for place, mask in enumerate(stacked[:, -1]):
            classes = set(mask.unique().tolist())
            if not classes <= seen:
                new.append(place)
                seen |= classes
        return torch.tensor(sorted(list(dict.fromkeys([*new, *first.tolist()]))[:SHOWN]))


def confusion(masks: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Pixels by their class in truth (row) and prediction (column), as floats; ignored ones left out."""
    places = torch.where(masks == IGNORED, classes * classes, masks * classes + predicted).flatten()
    # A count of whole numbers, which no order of summation changes; nothing is read back from the device.
    counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=places.device)
    counts.scatter_add_(0, places, torch.ones_like(places))
    dtype = torch.float32 if places.device.type == "mps" else torch.float64
    return counts[:-1].view(classes, classes).to(dtype)


def share(part: float, whole: float) -> float:
    """``part / whole``; NaN where there is nothing."""
    return part / whole if whole else math.nan
