"""(helper) CIFAR that is brought in parts: which official files are whole, and parts that become official files.

A part is a file ``SHARDS/cifar10/data_batch_1.npz`` or ``SHARDS/cifar100/train_1.npz``: images in a lossless format
(PNG, WebP) behind each other in ``bytes``, their ``sizes`` in bytes, and ``labels``. Or an official ``.bin`` file.
"""

import io
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dynamicblocks.data.images.formats import CIFAR_IMAGE
from dynamicblocks.data.images.sources import CIFAR10, CIFAR100, Source

PIXELS = int(np.prod(CIFAR_IMAGE))
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class DataSet:
    """The official files of a data set: how many images each holds, and the bytes of labels before each image."""

    source: Source
    images: dict[str, int]
    label_bytes: int

    def folder(self, data_dir: Path) -> Path:
        """Where its files lie: in the official folder, or in the folder itself."""
        inside = data_dir / self.source.folder
        return data_dir if not inside.is_dir() and any((data_dir / file).exists() for file in self.images) else inside

    def missing(self, data_dir: Path, *, whole: bool = True) -> list[str]:
        """Files that are not there or, if they are to be ``whole``, hold fewer images than the official ones."""
        folder = self.folder(data_dir)
        if any((folder / remote.file).is_file() for remote in self.source.remotes):
            return []  # the official archive
        found = []
        for file in self.source.files:
            size = (folder / file).stat().st_size if (folder / file).is_file() else 0
            due = self.images.get(file, 0) * (self.label_bytes + PIXELS)
            if not size or (whole and due and size != due):
                found.append(file)
        return found


DATA_SETS = {
    "cifar10": DataSet(
        CIFAR10, dict.fromkeys([*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"], 10_000), 1
    ),
    "cifar100": DataSet(CIFAR100, {"train.bin": 50_000, "test.bin": 10_000}, 2),
}


def bring(shards: Path, data_dir: Path) -> Iterator[str]:
    """Write the parts in ``shards`` into the official files below ``data_dir``; what is done, a line a part.

    What an earlier call brought is not read again. A file of several parts is written when all of them are there.
    """
    for name, data in DATA_SETS.items():
        parts = sorted([*(shards / name).glob("*.npz"), *(shards / name).glob("*.bin")])
        if not parts or not data.missing(data_dir):
            continue
        target = data.folder(data_dir)
        (target / "parts").mkdir(parents=True, exist_ok=True)
        _write_names(shards / name, data, target)
        todo = [part for part in parts if not _written(part, data, target).exists()]
        with ThreadPoolExecutor() as pool:
            for part in pool.map(partial(_bring_one, data=data, target=target), todo):
                yield f"{name}: {part} brought"
        for file, images in data.images.items():
            _join(target, file, images * (data.label_bytes + PIXELS))


def _written(part: Path, data: DataSet, target: Path) -> Path:
    """The file that a part becomes: an official one, or a part of one."""
    file = f"{part.stem}.bin"
    return target / file if file in data.images else target / "parts" / file


def _bring_one(part: Path, data: DataSet, target: Path) -> str:
    goal = _written(part, data, target)
    beside = goal.with_suffix(".part")
    if part.suffix == ".bin":
        shutil.copyfile(part, beside)
    else:
        _records(part, data.label_bytes).tofile(beside)
    beside.replace(goal)
    return part.name


def _records(part: Path, label_bytes: int) -> np.ndarray:
    """Records of the official layout. The coarse label of CIFAR-100, which nothing here reads, is left 0."""
    with np.load(part) as archive:
        content, sizes, labels = archive["bytes"].tobytes(), archive["sizes"].astype(np.int64), archive["labels"]
    records = np.zeros((len(labels), label_bytes + PIXELS), np.uint8)
    records[:, label_bytes - 1] = labels
    ends = np.cumsum(sizes)
    for record, start, end in zip(records, ends - sizes, ends, strict=True):
        image = np.asarray(Image.open(io.BytesIO(content[start:end])))
        record[label_bytes:] = image.transpose(2, 0, 1).reshape(-1)
    return records


def _write_names(shards: Path, data: DataSet, target: Path) -> None:
    """The names of the classes: a file of the parts, or, of CIFAR-10, those that everybody knows."""
    names = next(file for file in data.source.files if file.endswith(".txt"))
    given = [path for path in (shards / names, shards / "classes.txt") if path.is_file()]
    if given:
        shutil.copyfile(given[0], target / names)
    elif data is DATA_SETS["cifar10"]:
        (target / names).write_text("\n".join(CIFAR10_CLASSES) + "\n")


def _join(target: Path, file: str, due: int) -> None:
    """Write an official file from its parts ``train_1.bin``, ``train_2.bin`` ... once they are as long as it is."""
    pattern = re.compile(rf"{Path(file).stem}_(\d+)")
    numbered = [(pattern.fullmatch(path.stem), path) for path in (target / "parts").glob("*.bin")]
    parts = [path for _, path in sorted((int(match[1]), path) for match, path in numbered if match)]
    if sum(path.stat().st_size for path in parts) != due:
        return
    beside = (target / file).with_suffix(".part")
    with beside.open("wb") as joined:
        for path in parts:
            with path.open("rb") as content:
                shutil.copyfileobj(content, joined)
    beside.replace(target / file)
    for path in parts:
        path.unlink()
