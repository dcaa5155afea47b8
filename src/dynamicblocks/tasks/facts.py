"""What a network, and its predictions, need to know of the data that it was trained on: all that a run needs of them.

It is stored with a run, and read back from files that anybody may have written, so everything is checked here.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch

from dynamicblocks.data import ImageDataset
from dynamicblocks.data.fields import FieldDataset
from dynamicblocks.data.fields.statistics import Channels
from dynamicblocks.data.segmentation import PairDataset
from dynamicblocks.errors import ConfigurationError, StorageError

# Beyond these no network of this package was ever trained, and a file asks for memory.
MOST_CLASSES, MOST_CHANNELS, MOST_POINTS, LONGEST_NAME = 100_000, 4096, 2**20, 1000
# Names in a message, at most.
LISTED = 10

BYTE = 255
"""The highest value of a pixel of eight bits."""

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class ImageFacts:
    """Of images.

    Args:
        classes: their names.
        mean, std: of the training images, for each channel, in units of pixel values.
        size: height and width.
        white: the highest pixel value: 255, or 16 for scikit-learn's digits of 17 grey levels.
        fitted: whether files of any size are made to that size where they are read, as in training.
    """

    classes: tuple[str, ...]
    mean: Numbers
    std: Numbers
    size: tuple[int, int]
    white: int = BYTE
    fitted: bool = False

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        return {**_plain(self), "channels": self.channels}

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> "ImageFacts":
        """Those of :meth:`stored`.

        Raises:
            ConfigurationError: one is missing, or is not what it should be.
        """
        size = _counts(facts, "size", MOST_POINTS)
        if len(size) != 2:
            raise wrong(facts, "size", "height and width")
        mean = numbers_in(facts, "mean")
        if _count(facts, "channels", MOST_CHANNELS) != len(mean):
            raise wrong(facts, "channels", f"{len(mean)}, as many as means")
        return cls(
            classes=names_in(facts, "classes"),
            mean=mean,
            std=deviations_in(facts, "std", len(mean)),
            size=(size[0], size[1]),
            white=_count(facts, "white", BYTE),
            fitted=_truth(facts, "fitted"),
        )


@dataclass(frozen=True)
class FieldFacts:
    """Of pairs of fields.

    Args:
        mean, std: of the inputs of the training split, for each channel.
        target_mean, target_std: of its targets.
        space: points along each dimension of space.
    """

    mean: Numbers
    std: Numbers
    target_mean: Numbers
    target_std: Numbers
    space: tuple[int, ...]

    @cached_property
    def inputs(self) -> Channels:
        """Mean and deviation of the inputs."""
        return _channels(self.mean, self.std)

    @cached_property
    def targets(self) -> Channels:
        """Mean and deviation of the targets."""
        return _channels(self.target_mean, self.target_std)

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        return {**_plain(self), "channels": len(self.mean), "target_channels": len(self.target_mean)}

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> "FieldFacts":
        """Those of :meth:`stored`.

        Raises:
            ConfigurationError: one is missing, or is not what it should be.
        """
        space = _counts(facts, "space", MOST_POINTS)
        if not 1 <= len(space) <= 3:
            raise wrong(facts, "space", "points along one, two or three dimensions")
        mean, target_mean = (numbers_in(facts, f"{which}mean") for which in ("", "target_"))
        return cls(
            mean=mean,
            std=deviations_in(facts, "std", len(mean)),
            target_mean=target_mean,
            target_std=deviations_in(facts, "target_std", len(target_mean)),
            space=space,
        )


def facts_of_images(data: ImageDataset | PairDataset, white: int = BYTE, *, fitted: bool = False) -> ImageFacts:
    """The facts of images that were read."""
    (first,) = data.train.stream([torch.tensor([0])])
    height, width = first.shape[-2:]
    return ImageFacts(data.classes, data.mean, data.std, (height, width), white, fitted)


def facts_of_fields(data: FieldDataset) -> FieldFacts:
    """The facts of fields that were read."""
    mean, std, target_mean, target_std = (
        tuple(each.tolist()) for of in (data.inputs, data.targets) for each in (of.mean, of.std)
    )
    return FieldFacts(mean, std, target_mean, target_std, data.train.space)


def check_same_images(name: str, data: ImageDataset | PairDataset, known: ImageFacts) -> None:
    """Raise where images are not of the classes and channels that a run knows."""
    if data.classes != known.classes:
        raise _changed(name, f"the classes {_listed(known.classes)}", _listed(data.classes))
    if data.channels != known.channels:
        raise _changed(name, f"images of {known.channels} channels", f"{data.channels}")


def check_same_fields(name: str, data: FieldDataset, known: FieldFacts) -> None:
    """Raise where fields are not of the channels and the space that a run knows."""
    pairs, space = data.train, known.space
    mine = ((len(known.mean), *space), (len(known.target_mean), *space))
    came = (tuple(pairs.inputs.shape[1:]), tuple(pairs.targets.shape[1:]))
    if mine != came:
        raise _changed(name, f"inputs {mine[0]} and targets {mine[1]}", f"{came[0]} and {came[1]}")


def _changed(name: str, known: str, came: str) -> StorageError:
    return StorageError(f"the run was trained on {known}, but {name} now holds {came}; give the data of the training")


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:LISTED])
    return f"{shown}, ... ({len(names)} of them)" if len(names) > LISTED else shown


def _channels(mean: Numbers, std: Numbers) -> Channels:
    return Channels(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


def _plain(facts: ImageFacts | FieldFacts) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(facts).items()}


Found = TypeVar("Found")


def wrong(facts: Mapping[str, Any], name: str, expected: str) -> ConfigurationError:
    """The error for a fact that is not what it should be."""
    if not isinstance(facts, Mapping):
        return ConfigurationError(f"facts of the data must be a mapping, got {facts!r:.80}")
    came = f"{facts[name]!r:.80}" if name in facts else "nothing"
    return ConfigurationError(f"{name} among the facts of the data must be {expected}, got {came}")


def _taken(facts: Mapping[str, Any], name: str, kind: type[Found], expected: str) -> Found:
    found = facts.get(name) if isinstance(facts, Mapping) else None
    # A truth value is a number in Python, and none here.
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise wrong(facts, name, expected)
    return found


def _truth(facts: Mapping[str, Any], name: str) -> bool:
    return _taken(facts, name, bool, "true or false")


def _count(facts: Mapping[str, Any], name: str, most: int) -> int:
    expected = f"a whole number from 1 to {most:,}"
    found = _taken(facts, name, int, expected)
    if not 1 <= found <= most:
        raise wrong(facts, name, expected)
    return found


def _list(facts: Mapping[str, Any], name: str, most: int, expected: str) -> list[Any]:
    found = _taken(facts, name, list, expected)
    if not 1 <= len(found) <= most:
        raise wrong(facts, name, expected)
    return found


def _counts(facts: Mapping[str, Any], name: str, most: int) -> tuple[int, ...]:
    expected = f"whole numbers from 1 to {most:,}"
    found = _list(facts, name, MOST_CHANNELS, expected)
    if not all(isinstance(each, int) and not isinstance(each, bool) and 1 <= each <= most for each in found):
        raise wrong(facts, name, expected)
    return tuple(found)


def numbers_in(facts: Mapping[str, Any], name: str) -> Numbers:
    """Finite numbers, or an error."""
    expected = f"finite numbers, one a channel, of which there are {MOST_CHANNELS:,} at most"
    found = _list(facts, name, MOST_CHANNELS, expected)
    try:
        numbers = tuple(float(each) for each in found if isinstance(each, int | float) and not isinstance(each, bool))
    except OverflowError as error:  # a whole number beyond all floats
        raise wrong(facts, name, expected) from error
    if len(numbers) != len(found) or not all(map(math.isfinite, numbers)):
        raise wrong(facts, name, expected)
    return numbers


def deviations_in(facts: Mapping[str, Any], name: str, channels: int) -> Numbers:
    """Positive numbers, one a channel, or an error."""
    found = numbers_in(facts, name)
    if len(found) != channels or min(found) <= 0:
        raise wrong(facts, name, f"{channels} positive numbers, one a channel")
    return found


def names_in(facts: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Names, or an error."""
    expected = f"the names of the classes, of which there are {MOST_CLASSES:,} at most"
    found = _list(facts, name, MOST_CLASSES, expected)
    if not all(isinstance(each, str) and 0 < len(each) <= LONGEST_NAME for each in found):
        raise wrong(facts, name, expected)
    return tuple(found)
