"""Images in folders, one for each class: PATH/train/CLASS/*.jpg and PATH/val or PATH/test (Imagenette's layout)."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamicblocks.data.images.splits import Split
from dynamicblocks.errors import ProcessError, StorageError
from dynamicblocks.interruption import serve
from dynamicblocks.processes import READER_LOST

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """An image as (3, size, size): its shorter side resized to ``size``, then the square in its middle."""
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise StorageError(f"{path} cannot be read as an image ({error}); remove it or get it again") from error
    return np.asarray(square).transpose(2, 0, 1)


class _Decoded(Dataset[Tensor | StorageError]):
    """Decoded batches by their indices, for the workers of a loader.

    An error is returned, not raised: what a worker raises arrives with its traceback as the message.
    """

    def __init__(self, read: Callable[[int], NDArray[np.uint8]]) -> None:
        self.read = read

    def __getitem__(self, batch: Tensor) -> Tensor | StorageError:
        try:
            images = [self.read(index) for index in batch.tolist()]
        except StorageError as error:
            return error
        return torch.from_numpy(np.stack(images))


def decoded(
    read: Callable[[int], NDArray[np.uint8]], batches: Sequence[Tensor], workers: int, device: torch.device
) -> Iterator[Tensor]:
    """What ``read`` gives for each index of several batches, stacked, read by so many processes."""
    with warnings.catch_warnings():
        # PyTorch advises against more processes than cores; how many there are is for the caller to say.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            _Decoded(read),
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            # A loader draws seeds for its workers; from the global generator they would make a resumed run another one.
            generator=torch.Generator(),
            worker_init_fn=serve,
        )
        stream = iter(loader)
    while True:
        try:
            images = next(stream)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # a connection ends before PyTorch sees that its worker did
            if not workers or (isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker")):
                raise
            raise ProcessError(READER_LOST) from error
        if isinstance(images, StorageError):
            raise images
        yield images.to(device, non_blocking=True)


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
        return read_image(self.paths[index], self.size)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        yield from decoded(self.read, batches, self.workers, self.labels.device)


def read_folder(root: Path, size: int) -> tuple[dict[str, FolderSplit], tuple[str, ...]]:
    """The parts ``train``, ``val`` and ``test`` that are there, and the names of the classes.

    Raises:
        StorageError: there is no train, or neither val nor test; a class is empty or not in every part.
    """
    parts = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    if "train" not in parts or len(parts) < 2:
        raise StorageError(f"{root} must hold the folders train and val or test, found {', '.join(parts) or 'none'}")
    classes = {part: sorted(path.name for path in (root / part).iterdir() if path.is_dir()) for part in parts}
    for part in parts:
        if not classes[part] or classes[part] != classes["train"]:
            odd = sorted(set(classes[part]) ^ set(classes["train"]))
            raise StorageError(
                f"{root / part} and {root / 'train'} must hold one folder for each class, the same ones; they differ "
                f"in {', '.join(odd) or 'nothing, for there are none'}"
            )
    found = {part: _read_part(root / part, classes["train"], size) for part in parts}
    return found, tuple(classes["train"])


def _read_part(folder: Path, classes: Sequence[str], size: int) -> FolderSplit:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        mine = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in ENDINGS)
        if not mine:
            raise StorageError(f"{folder / name} holds no image ({', '.join(ENDINGS)})")
        paths += mine
        labels += [label] * len(mine)
    return FolderSplit(tuple(paths), torch.tensor(labels), size)
