"""The data sets by name, as they are distributed."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicblocks.data.images.augmentation import Augmentation
from dynamicblocks.data.images.decoding import check_side
from dynamicblocks.data.images.folder import check_layout, read_folder
from dynamicblocks.data.images.formats import read_cifar, read_idx_split, read_names, read_stl10
from dynamicblocks.data.images.sources import CIFAR10, CIFAR100, FASHION_MNIST, MNIST, STL10, Source
from dynamicblocks.data.images.splits import MemorySplit, Split, stratified
from dynamicblocks.errors import ConfigurationError, StorageError, unknown_name
from dynamicblocks.extras import needed_for
from dynamicblocks.registry import Registry
from dynamicblocks.visible import legible


@dataclass(frozen=True)
class Raw:
    """What a data set registers: its images before a validation split is cut from them, unless it brings one."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    note: str
    augmentation: Augmentation
    validation: Split | None = None
    white: int = 255


@dataclass(frozen=True)
class Where:
    """How to read a data set: a local folder; the size of images."""

    data_dir: str | None = None
    size: int | None = None


datasets: Registry[Raw] = Registry("data set")

FOLDER = "imagefolder"
# Other spellings in use, without regard to case.
OTHER_NAMES = {
    "fmnist": "fashion-mnist",
    "fashionmnist": "fashion-mnist",
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
}

# What comes with a package, and with which.
BROUGHT = {"digits": "scikit-learn"}
# The sides of the images.
SIDES = {"digits": 8, "mnist": 28, "fashion-mnist": 28, "cifar10": 32, "cifar100": 32, "stl10": 96}

# The digits come without a test set of their own; this split of them is the project's, and never changes.
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0
# The highest of their grey levels.
DIGITS_WHITE = 16
FOLDER_SIZE = 128


@datasets.register("digits")
def digits(where: Where) -> Raw:
    """1,797 handwritten digits of 8 x 8 pixels with 17 grey levels, shipped with scikit-learn."""
    rows = torch.from_numpy(_digit_rows())  # 64 pixels and the label
    images, labels = rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1].long()
    train, test = (
        torch.from_numpy(part) for part in stratified(labels.numpy(), DIGITS_TEST_FRACTION, DIGITS_TEST_SEED)
    )
    note = "scikit-learn's digits (1,797 images, 8 x 8), 20 % test images by a fixed stratified split"
    whole = MemorySplit(images, labels)
    usual = Augmentation(shift=1, turn=10.0, scale=0.1)
    names = tuple("0123456789")
    return Raw(whole.select(train), whole.select(test), names, note, usual, white=DIGITS_WHITE)


def _digit_rows() -> NDArray[np.uint8]:
    """The file of scikit-learn, which is not imported for it: that takes nearly as long as importing torch."""
    with needed_for("the data set digits"):
        home = find_spec("sklearn")
        if home is None or home.origin is None:
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    with gzip.open(Path(home.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)


FASHION_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _idx(source: Source, classes: tuple[str, ...], title: str, usual: Augmentation) -> Callable[[Where], Raw]:
    def read(where: Where) -> Raw:
        paths, origin = source.locate(where.data_dir)
        files = [paths[file] for file in source.files]
        train, test = (read_idx_split(images, labels, classes=10) for images, labels in (files[:2], files[2:]))
        sizes = [" x ".join(map(str, split.images.shape[2:])) for split in (train, test)]
        if sizes[0] != sizes[1]:
            raise StorageError(
                f"{legible(files[2])} holds images of {sizes[1]} pixels, {legible(files[0])} of {sizes[0]}; they do "
                "not belong together: delete them and get them again"
            )
        return Raw(train, test, classes, f"{title}, {origin}", usual)

    return read


datasets.register("mnist")(_idx(MNIST, tuple("0123456789"), "MNIST", Augmentation(shift=2)))
datasets.register("fashion-mnist")(
    _idx(FASHION_MNIST, FASHION_CLASSES, "Fashion-MNIST", Augmentation(shift=2, flip=True))
)


@datasets.register("cifar10")
def cifar10(where: Where) -> Raw:
    """60,000 colour images of 32 x 32 pixels in 10 classes."""
    paths, origin = CIFAR10.locate(where.data_dir)
    parts = [read_cifar(paths[file], classes=10) for file in CIFAR10.files[:6]]
    train = MemorySplit(torch.cat([part.images for part in parts[:5]]), torch.cat([part.labels for part in parts[:5]]))
    names = read_names(paths["batches.meta.txt"], 10)
    return Raw(train, parts[5], names, f"CIFAR-10, {origin}", Augmentation(shift=4, flip=True))


@datasets.register("cifar100")
def cifar100(where: Where) -> Raw:
    """60,000 colour images of 32 x 32 pixels in 100 classes."""
    paths, origin = CIFAR100.locate(where.data_dir)
    train, test = (read_cifar(paths[file], classes=100, label_bytes=2) for file in ("train.bin", "test.bin"))
    names = read_names(paths["fine_label_names.txt"], 100)
    return Raw(train, test, names, f"CIFAR-100, {origin}", Augmentation(shift=4, flip=True))


@datasets.register("stl10")
def stl10(where: Where) -> Raw:
    """13,000 labelled colour images of 96 x 96 pixels in 10 classes."""
    paths, origin = STL10.locate(where.data_dir)
    train, test = (read_stl10(paths[f"{part}_X.bin"], paths[f"{part}_y.bin"], classes=10) for part in ("train", "test"))
    names = read_names(paths["class_names.txt"], 10)
    return Raw(train, test, names, f"STL-10, {origin}", Augmentation(shift=12, flip=True))


def image_folder(path: str, where: Where) -> Raw:
    """Images of any size in folders: train and val or test; with all three, val is the validation split."""
    size = FOLDER_SIZE if where.size is None else check_side(where.size)
    folder = read_folder(Path(path), size)
    parts, classes = folder.parts, folder.classes
    note = f"images of {legible(path)}, {size} x {size}; {folder.note}"
    usual = Augmentation(shift=size // 8, flip=True)
    if len(parts) == 3:
        return Raw(parts["train"], parts["test"], classes, note, usual, parts["val"])
    test = parts["test"] if "test" in parts else parts["val"]
    return Raw(parts["train"], test, classes, note, usual)


def check_named(name: str, where: Where) -> int | None:
    """Raise for what is wrong with a name or a place, as far as it is known before images are read.

    Returns:
        The side of the images, where that is known.

    Raises:
        ConfigurationError: there are no images of that name, or they are read from no such place.
        StorageError: a folder is missing, or has another layout.
    """
    kind, _, path = name.partition(":")
    if kind.lower() == FOLDER:
        check_folder_named(path, where)
        side = FOLDER_SIZE if where.size is None else check_side(where.size)
        check_layout(Path(path))
        return side
    plain = plain_name(name, where)
    if where.data_dir is not None and plain in BROUGHT:
        raise ConfigurationError(
            f"{plain} come with {BROUGHT[plain]} and are read from no folder; leave out data.data_dir"
        )
    if where.data_dir is not None and not Path(where.data_dir).is_dir():
        raise StorageError(f"there is no folder {where.data_dir}")
    return SIDES.get(plain)


def check_folder_named(path: str, where: Where) -> None:
    """Raise unless a folder of images is named, once."""
    if not path:
        raise ConfigurationError(f"{FOLDER} needs a folder, such as {FOLDER}:data/imagenette2-160")
    if where.data_dir is not None:
        raise ConfigurationError(f"{FOLDER}:{path} names its folder itself; leave out data.data_dir")


def plain_name(name: str, where: Where) -> str:
    """The name under which a data set is registered. Case does not matter: ``CIFAR10`` is ``cifar10``."""
    plain = name.lower().replace("_", "-")
    plain = OTHER_NAMES.get(plain, plain)
    if plain not in datasets:
        raise unknown_name("data set", name, [*datasets, f"{FOLDER}:PATH"])
    if where.size is not None:
        raise ConfigurationError(f"data.size is for {FOLDER}:PATH; {plain} has images of one size")
    return plain


def read_raw(name: str, where: Where) -> Raw:
    """The data set of that name as it is distributed."""
    kind, _, path = name.partition(":")
    if kind.lower() == FOLDER:
        check_folder_named(path, where)
        return image_folder(path, where)
    return datasets[plain_name(name, where)](where)
