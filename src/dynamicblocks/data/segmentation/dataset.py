"""Images and masks in three splits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicblocks.data.images.datasets import FOLDER_SAMPLE, moments_of, some_of
from dynamicblocks.data.images.decoding import check_side
from dynamicblocks.data.images.files import LeftOut, fingerprint
from dynamicblocks.data.images.folder import parts_of
from dynamicblocks.data.segmentation.augmentation import PairAugmentation
from dynamicblocks.data.segmentation.masks import (
    IGNORED,
    LAYOUT,
    Pair,
    check_indices,
    check_pair,
    find_pairs,
    read_mask,
    read_names,
)
from dynamicblocks.data.segmentation.pairs import FolderPairs, MemoryPairs, Pairs
from dynamicblocks.data.segmentation.qtips import CLASSES, SIZE, TRAINING, qtips
from dynamicblocks.errors import ConfigurationError, StorageError, unknown_name
from dynamicblocks.visible import legible

QTIPS, FOLDER = "qtips", "folder"
# Folders whose decoded pixels take no more bytes than this are read once and kept.
KEPT_BYTES = 2**29
# Pairs that are decoded at once where all are gone through.
AT_ONCE = 16


@dataclass(frozen=True)
class PairDataset:
    """Images and masks in three splits.

    Args:
        classes: their names.
        train, validation, test: the splits.
        mean, std: of the training images, for each channel, in units of pixel values.
        counts: pixels of each class in the training masks; ignored ones are none.
        note: where the images come from and how they were split, for the record of a run.
        augmentation: the random changes that are usual for its training images.
    """

    classes: tuple[str, ...]
    train: Pairs
    validation: Pairs
    test: Pairs
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: tuple[int, ...]
    note: str
    augmentation: PairAugmentation

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.train.channels


def check_named(name: str, size: int | None = None) -> int | None:
    """Raise unless there may be images of that name; the side of those that are made, or made squares.

    Raises:
        ConfigurationError: an unknown name, or too small a side.
        StorageError: the folder is missing, or lacks parts.
    """
    kind, colon, where = name.partition(":")
    if kind.lower() == FOLDER and where:
        side = None if size is None else check_side(size)
        parts_of(Path(where), LAYOUT)
        return side
    if name.lower().replace("-", "") == QTIPS:
        return SIZE if size is None else size
    if kind.lower() == FOLDER or colon:
        raise ConfigurationError(f"data.name must be {QTIPS} or {FOLDER}:PATH, got {name!r}")
    raise unknown_name("data set", name, [QTIPS, f"{FOLDER}:PATH"])


def load_pairs(
    name: str,
    validation: float = 0.1,
    split_seed: int = 0,
    *,
    size: int | None = None,
    train_images: int | None = None,
) -> PairDataset:
    """The data set of that name.

    Args:
        name: qtips, or folder:PATH.
        validation: share of the training images to hold out where a folder has only one of val and test, in (0, 1).
        split_seed: which images those are, and which Q-tips are made; independent of the seed of a training.
        size: side of the images: of Q-tips 64 by default; of a folder they are as they are, all of one size.
        train_images: train on so many images; of a folder a list that the split seed fixes, by default all.

    Raises:
        ConfigurationError: an unknown name, or a share, size or number of images that does not work.
        StorageError: a file is missing or damaged, or does not fit the others.

    >>> data = load_pairs("qtips", size=32, train_images=8)
    >>> data.classes, len(data.train), next(data.train.stream([torch.arange(2)])).shape
    (('background', 'white-white', 'white-black', 'black-black'), 8, torch.Size([2, 2, 32, 32]))
    """
    if not 0 < validation < 1:
        raise ConfigurationError(
            f"data.validation, a share of the training images, must be in (0, 1), got {validation}"
        )
    check_named(name, size)
    kind, _, where = name.partition(":")
    if kind.lower() == FOLDER:
        return _folder(Path(where), validation, split_seed, size, train_images)
    return _qtips(split_seed, SIZE if size is None else size, TRAINING if train_images is None else train_images)


def _qtips(seed: int, size: int, training: int) -> PairDataset:
    made = {
        split: MemoryPairs(torch.from_numpy(np.stack(pair, 1))) for split, pair in qtips(size, training, seed).items()
    }
    train = made["train"]
    mean, std = moments_of([train.stacked], train.channels)
    counts = torch.bincount(train.stacked[:, -1].flatten(), minlength=len(CLASSES))
    note = (
        f"Q-tips, {size} x {size} pixels, made from split seed {seed}; {training:,} training, "
        f"{len(made['validation'])} validation and {len(made['test'])} test images, none of them in two splits"
    )
    usual = PairAugmentation(flip=True, quarter_turns=True)
    return PairDataset(CLASSES, train, made["validation"], made["test"], mean, std, tuple(counts.tolist()), note, usual)


def _folder(root: Path, share: float, seed: int, size: int | None, train_images: int | None) -> PairDataset:
    left_out = LeftOut(root)
    pairs = find_pairs(root, left_out)
    extent, grey, of_images = _common(pairs, size)
    counts = {part: np.stack([_counted(mask, size) for _, mask in of_part]) for part, of_part in pairs.items()}
    classes = _classes(root, pairs, counts)
    whole = {part: FolderPairs(files, grey, size) for part, files in pairs.items()}
    decoded = sum(len(split) * (split.channels + 1) * extent[0] * extent[1] for split in whole.values())
    splits = {part: in_memory(split) if decoded <= KEPT_BYTES else split for part, split in whole.items()}
    train = splits["train"]
    chosen = np.arange(len(train))
    if len(splits) == 3:
        held_out, how = splits["val"], "validation images of their own"
    else:
        chosen, held = _held_out(len(train), share, seed)
        held_out = train.select(torch.from_numpy(held))
        how = f"validation: {len(held)} training images, split seed {seed}"
    if train_images is not None:
        places, listed = some_of(chosen, train_images, seed)
        chosen = chosen[places]
        how += f"; trained on {listed}"
    train = train.select(torch.from_numpy(chosen))
    test = splits["test"] if "test" in splits else splits["val"]
    mean, std = _moments(train)
    note = (
        f"images of {legible(root)}, {extent[0]} x {extent[1]}; {_files(root, pairs)}{of_images}; "
        f"{len(train):,} training and {len(test):,} test images, {len(classes)} classes; {how}"
    )
    if left_out.found:
        note += f"; left out: {left_out}"
    of_classes = counts["train"][chosen].sum(axis=0)[: len(classes)]
    return PairDataset(
        classes, train, held_out, test, mean, std, tuple(of_classes.tolist()), note, PairAugmentation(flip=True)
    )


def _files(root: Path, pairs: dict[str, tuple[Pair, ...]]) -> str:
    names = (str(path.relative_to(root)) for of_part in pairs.values() for pair in of_part for path in pair)
    return f"list of files {fingerprint(names)}"


def _common(pairs: dict[str, tuple[Pair, ...]], size: int | None) -> tuple[tuple[int, int], bool, str]:
    """Width and height of the images as they are used, whether all of them are grey, and what else a note says."""
    first, *_ = pairs["train"]
    known = [(pair[0], check_pair(*pair)) for of_part in pairs.values() for pair in of_part]
    extent = (known[0][1].width, known[0][1].height)
    for path, mine in known:
        if (mine.width, mine.height) != extent and size is None:
            raise StorageError(
                f"{legible(path)} has {mine.width} x {mine.height} pixels, {legible(first[0])} has {extent[0]} x "
                f"{extent[1]}: give images of one size, or make squares of them with data.size"
            )
    turned, several = (sum(getattr(mine, what) for _, mine in known) for what in ("turned", "several"))
    note = f"; {turned:,} images turned upright by their EXIF orientation" if turned else ""
    note += f"; of {several:,} files of several images the first" if several else ""
    return extent if size is None else (size, size), all(mine.grey for _, mine in known), note


def _counted(mask: Path, size: int | None) -> NDArray[np.int64]:
    """Pixels of each of the 256 indices of a mask as it is used."""
    return np.bincount(read_mask(mask, size).ravel(), minlength=IGNORED + 1)


def _classes(root: Path, pairs: dict[str, tuple[Pair, ...]], counts: dict[str, NDArray[np.int64]]) -> tuple[str, ...]:
    """The names of the classes: those of ``classes.txt``, or else the indices up to the highest in training masks.

    Raises:
        StorageError: a mask has a class beyond them, there are fewer than two, or a part has no pixel of any.
    """
    for part, of_part in counts.items():
        if not of_part[:, :IGNORED].any():
            raise StorageError(f"{root / part / 'masks'} holds ignored pixels (255) alone")
    names = read_names(root)
    known = f"{root / 'classes.txt'} names {len(names or ())} classes"
    if names is None:
        highest = int(np.flatnonzero(counts["train"][:, :IGNORED].any(axis=0)).max())
        names = tuple(str(index) for index in range(highest + 1))
        known = f"the training masks hold {len(names)} classes (more are named in {root / 'classes.txt'})"
    if len(names) < 2:
        raise StorageError(
            f"{root / 'train' / 'masks'}: expected class indices of at least two classes, got {len(names)} (255 is no "
            "class: such pixels are ignored)"
        )
    for part, files in pairs.items():
        for (_, mask), of_mask in zip(files, counts[part], strict=True):
            check_indices(mask, of_mask, len(names), known)
    return names


def in_memory(pairs: FolderPairs) -> Pairs:
    """The same pairs, read once."""
    return MemoryPairs(torch.cat(list(pairs.stream(list(torch.split(torch.arange(len(pairs)), AT_ONCE))))))


def _held_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices of the images to train on, and of a share of at least one that is held out."""
    held = max(1, round(share * count))
    if held >= count:
        raise ConfigurationError(f"data.validation {share} of {count} training images leaves none to train on")
    # RandomState's numbers are promised to stay what they are.
    order = np.random.RandomState(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def _moments(train: Pairs) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels: over all images in memory, over a sample of those that lie in files."""
    step = 1 if isinstance(train, MemoryPairs) else -(-len(train) // FOLDER_SAMPLE)
    return moments_of(train.stream(list(torch.split(torch.arange(0, len(train), step), AT_ONCE))), train.channels)
