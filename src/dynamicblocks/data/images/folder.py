"""Images in folders, one for each class: PATH/train/CLASS/*.jpg and PATH/val or PATH/test (Imagenette's layout)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.data.images.decoding import read_image
from dynamicblocks.data.images.files import (
    IMAGE_ENDINGS,
    LeftOut,
    entries,
    find_files,
    fingerprint,
    is_hidden,
    listed,
    subfolders,
)
from dynamicblocks.data.images.loading import loaded
from dynamicblocks.data.images.splits import Split
from dynamicblocks.errors import StorageError
from dynamicblocks.visible import legible

PARTS = ("train", "val", "test")
LAYOUT = "the layout is PATH/train/CLASS/*.jpg, and PATH/val/CLASS or PATH/test/CLASS, the same classes in each"
# Endings of files that may hold several images.
FRAMES = (".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class FolderSplit(Split):
    """Images decoded when they are needed.

    Args:
        paths: of the images.
        labels: (N,) int64.
        size: side of the squares.
        workers: processes that decode; 0 for this one.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    size: int
    workers: int = 0

    @property
    def channels(self) -> int:
        return 3

    def to(self, device: torch.device | str) -> "FolderSplit":
        return FolderSplit(self.paths, self.labels.to(device), self.size, self.workers)

    def with_workers(self, workers: int) -> "FolderSplit":
        return replace(self, workers=workers)

    def select(self, indices: Tensor) -> "FolderSplit":
        paths = tuple(self.paths[index] for index in indices.tolist())
        return FolderSplit(paths, self.labels[indices.to(self.labels.device)], self.size, self.workers)

    def read(self, index: int) -> NDArray[np.uint8]:
        """One image."""
        return read_image(self.paths[index], self.channels, self.size)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        yield from loaded(self.read, batches, self.workers, self.labels.device)


@dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Args:
        parts: ``train``, and ``val`` or ``test`` or both.
        classes: their names.
        note: which files were read, and what was left out and why.
    """

    parts: dict[str, FolderSplit]
    classes: tuple[str, ...]
    note: str


def read_folder(root: Path, size: int) -> Folder:
    """The images of a folder, found but not read.

    Raises:
        StorageError: its layout is another one, or a class is empty.
    """
    parts, classes = check_layout(root)
    left_out = LeftOut(root)
    found = {part: _read_part(root / part, classes, size, left_out) for part in parts}
    paths = [path for part in found.values() for path in part.paths]
    note = f"list of files {fingerprint(str(path.relative_to(root)) for path in paths)}"
    several = sum(path.suffix.lower() in FRAMES for path in paths)
    if several:
        note += f"; {several:,} are {', '.join(FRAMES)}, of which the first image counts"
    if left_out.found:
        note += f"; left out: {left_out}"
    return Folder(found, tuple(map(legible, classes)), note)


def check_layout(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of a folder and the names of its classes, without a look at its images.

    Raises:
        StorageError: it is missing, lacks a part, or has not the same two classes or more in each.
    """
    parts = parts_of(root, LAYOUT)
    classes = {part: tuple(subfolders(root / part)) for part in parts}
    for part in parts:
        _check_classes(root / part, classes[part])
        odd = sorted(set(classes[part]) ^ set(classes["train"]))
        if odd:
            raise StorageError(
                f"{legible(root / part)} and {legible(root / 'train')} must hold one folder for each class, the same "
                f"ones; they differ in {listed(odd)}: {LAYOUT}"
            )
    return parts, classes["train"]


def parts_of(root: Path, layout: str) -> tuple[str, ...]:
    """Which of the folders ``train``, ``val`` and ``test`` are there: the first, and at least one of the others.

    Raises:
        StorageError: the folder is missing, or lacks parts.
    """
    if not root.is_dir():
        what = "is a file, no folder" if root.exists() else "does not exist"
        raise StorageError(f"{legible(root)} {what}; expected a folder: {layout}")
    inside = subfolders(root)
    parts = tuple(part for part in PARTS if part in inside)
    if "train" not in parts or len(parts) < 2:
        others = [name for name in inside if name not in parts]
        nested = [name for name in others if (root / name / "train").is_dir()]
        hint = f", {listed(others)}" if others and parts else f" of them, but {listed(others)}" if others else ""
        hint += f"; did you mean {legible(root / nested[0])}?" if nested else ""
        raise StorageError(
            f"{legible(root)} must hold the folders train and val or test, found {', '.join(parts) or 'none'}{hint}: "
            f"{layout}"
        )
    return parts


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    """Raise unless there are at least two, which are no parts in the place of classes."""
    nested = [name for name in classes if name in PARTS]
    if len(classes) < 2 or len(nested) == len(classes):
        held = f"found {listed(classes)}" if classes else "found none"
        images = sum(Path(entry.name).suffix.lower() in IMAGE_ENDINGS for entry in entries(folder))
        if images:
            held += f", and {images:,} images that are in no class"
        if nested:
            held += f"; did you mean {legible(folder)}?"
        raise StorageError(f"{legible(folder)} must hold a folder for each of at least two classes, {held}: {LAYOUT}")


def _read_part(folder: Path, classes: Sequence[str], size: int, left_out: LeftOut) -> FolderSplit:
    for entry in entries(folder):
        if is_hidden(entry.name):
            left_out.add("hidden", folder / entry.name)
        elif entry.name not in classes:
            left_out.add("beside the folders of the classes", folder / entry.name)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        mine = find_files(folder / name, left_out)
        if not mine:
            raise StorageError(f"{legible(folder / name)} holds no image ({', '.join(IMAGE_ENDINGS)})")
        paths += mine
        labels += [label] * len(mine)
    return FolderSplit(tuple(paths), torch.tensor(labels), size)
