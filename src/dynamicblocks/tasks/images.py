"""Which images a task reads, and how."""

from dataclasses import dataclass, fields, replace

from dynamicblocks.data import Augmentation, ImageDataset, load_dataset
from dynamicblocks.data.images.catalogue import FOLDER, Where, check_named
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.memory import check_memory
from dynamicblocks.times import check_amount, check_count, check_seed


def is_folder(name: str) -> bool:
    """Whether a data set of that name is read from a folder of image files, of any size.

    >>> is_folder("imagefolder:photos"), is_folder("digits")
    (True, False)
    """
    return name.partition(":")[0].lower() == FOLDER


FEW = 8  # images of the smallest batch that anybody would train with
FLOAT = 4  # bytes of a number


def check_side(side: int) -> None:
    """Raise unless there is memory for a batch of images of this side, a small one."""
    numbers = FEW * 3 * side**2
    check_memory(numbers * FLOAT, f"a batch of {FEW} images of {side:,} x {side:,} pixels (data.size)")


@dataclass(frozen=True)
class DataConfig:
    """Images. Changes of training images left out are the usual ones of the data set.

    Args:
        name: digits, mnist, fashion-mnist, cifar10, cifar100, stl10 or imagefolder:PATH.
        data_dir: folder with a local copy in the official layout; without it, files are downloaded to a cache.
        size: side of the images of an image folder, in pixels.
        validation: share of the training images held out to choose the checkpoint.
        split_seed: which images those are.
        train_images: train on so many of the other images, a list that the split seed fixes; by default on all.
        batch_size: images in a training step, over all processes.
        test_batch_size: images in a step of evaluation; by default as in training.
        shift: most pixels by which training images are moved at random (pad and crop).
        flip: whether they are mirrored at random.
        cutout: side of a square that is painted over, at random, in pixels.
        turn: most degrees by which they are turned at random.
        scale: most by which they are magnified or shrunk at random, as a share of their size.
        progressive: smaller images at first: pairs of the share of the training from which on they have that many
            pixels on a side, for example [[0,20],[0.3,24],[0.6,32]]. Evaluation always sees whole images.
    """

    name: str = "digits"
    data_dir: str | None = None
    size: int | None = None
    validation: float = 0.1
    split_seed: int = 0
    train_images: int | None = None
    batch_size: int = 64
    test_batch_size: int | None = None
    shift: int | None = None
    flip: bool | None = None
    cutout: int | None = None
    turn: float | None = None
    scale: float | None = None
    progressive: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        check_count(self.batch_size, "data.batch_size")
        check_seed(self.split_seed, "data.split_seed")
        for name in ("size", "train_images", "test_batch_size"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), f"data.{name}")
        for name in ("shift", "cutout"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), f"data.{name}", least=0)
        for name in ("turn", "scale"):
            if getattr(self, name) is not None:
                check_amount(getattr(self, name), f"data.{name}")
        shares = [share for share, _ in self.progressive]
        if shares and (shares[0] != 0 or shares != sorted(set(shares)) or shares[-1] >= 1):
            raise ConfigurationError(f"the shares of data.progressive must rise from 0 to below 1, got {shares}")
        for _, side in self.progressive:
            check_count(side, "data.progressive")

    def check(self) -> None:
        """Raise for what cannot be, as far as it is known before images are read."""
        if self.size is not None:
            check_side(self.size)
        side = check_named(self.name, Where(self.data_dir, self.size))
        if side is not None:
            self.check_changes(side)

    def check_changes(self, side: int) -> None:
        """Raise for changes that leave nothing of images of this side."""
        if self.shift is not None and self.shift >= side:
            raise ConfigurationError(f"data.shift must be below the side of the images, {side}, got {self.shift}")
        if self.cutout is not None and self.cutout > side:
            raise ConfigurationError(f"data.cutout must be at most the side of the images, {side}, got {self.cutout}")

        for _, pixels in self.progressive:
            if pixels > side:
                raise ConfigurationError(
                    f"the sides of data.progressive must be at most that of the images, {side}, got {pixels}"
                )

    def load(self) -> ImageDataset:
        """The data set, split."""
        return load_dataset(
            self.name,
            self.validation,
            self.split_seed,
            data_dir=self.data_dir,
            size=self.size,
            train_images=self.train_images,
        )

    def augmentation(self, usual: Augmentation) -> Augmentation:
        """What is configured, and what is usual where nothing is."""
        chosen = {each.name: getattr(self, each.name) for each in fields(Augmentation)}
        return replace(usual, **{name: value for name, value in chosen.items() if value is not None})
