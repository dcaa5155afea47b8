"""Fields in three splits."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.data.fields.files import FieldPairs, read_pairs
from dynamicblocks.data.fields.statistics import Channels, channels_of
from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.times import check_count

KIND = "fields"
VALIDATION_FILES = ("val.npz", "validation.npz")


@dataclass(frozen=True)
class FieldDataset:
    """Pairs of fields in three splits.

    Args:
        train, validation, test: the splits, in the units of the file.
        inputs, targets: mean and deviation of the channels of the training split.
        note: where the fields come from and how they were split, for the record of a run.
    """

    train: FieldPairs
    validation: FieldPairs
    test: FieldPairs
    inputs: Channels
    targets: Channels
    note: str

    @property
    def dims(self) -> int:
        """Dimensions of space."""
        return len(self.train.space)


def load_fields(
    name: str, validation: float = 0.1, test: float = 0.1, split_seed: int = 0, *, train_samples: int | None = None
) -> FieldDataset:
    """The fields of ``fields:PATH``: a ``.npz`` file, or a folder with ``train.npz`` and perhaps the other splits.

    Args:
        name: ``fields:`` and the path. Each file has the keys ``inputs`` and ``targets``, (samples, channels, *space)
            in float32 or float64.
        validation, test: shares of the samples of the file (of ``train.npz``) that are held out, where the folder has
            no ``val.npz`` (or ``validation.npz``), no ``test.npz``.
        split_seed: which samples those are; independent of the seed of a training.
        train_samples: train on so many of the samples that are left, a list that the split seed fixes; None for all.

    Raises:
        ConfigurationError: the name is no such name, or a share or number of samples does not work.
        StorageError: a file is missing or damaged, or does not fit the others.
    """
    files = files_of(name)
    pairs = {split: read_pairs(path) for split, path in files.items()}
    for split in pairs:
        _check_alike(files["train"], pairs["train"], files[split], pairs[split])
    whole = pairs["train"]
    # RandomState's numbers are promised to stay what they are.
    order = np.random.RandomState(split_seed).permutation(len(whole))
    how = []
    for split, share in (("test", test), ("validation", validation)):
        if split in pairs:
            how.append(f"{split}: {len(pairs[split]):,} samples of {files[split].name}")
            continue
        count = max(1, round(check_share(share, f"data.{split}") * len(whole)))
        held, order = order[:count], order[count:]
        pairs[split] = whole.select(torch.from_numpy(np.sort(held)))
        how.append(f"{split}: {count:,} samples, split seed {split_seed}")
    if not len(order):
        raise ConfigurationError(
            f"{len(whole)} samples in {files['train']} leave none to train on beside data.validation {validation} and "
            f"data.test {test}: lower them, or give more samples"
        )
    if train_samples is not None:
        if check_count(train_samples, "data.train_samples") > len(order):
            raise ConfigurationError(
                f"data.train_samples must be at most the {len(order)} training samples, got {train_samples}"
            )
        digest = hashlib.sha256(order[:train_samples].astype("<i8").tobytes()).hexdigest()[:16]
        how.append(f"trained on {train_samples:,} of {len(order):,} samples, list {digest}")
        order = order[:train_samples]
    train = whole.select(torch.from_numpy(np.sort(order)))
    shape = " x ".join(map(str, train.space))
    note = (
        f"{name.partition(':')[2]}: {len(train):,} training samples on {shape} points, "
        f"{train.inputs.shape[1]} to {train.targets.shape[1]} channels; {'; '.join(how)}"
    )
    return FieldDataset(
        train, pairs["validation"], pairs["test"], channels_of(train.inputs), channels_of(train.targets), note
    )


def files_of(name: str) -> dict[str, Path]:
    """The file of each split that has one, by the name of a data set."""
    kind, colon, where = name.partition(":")
    if kind.lower() != KIND or not where:
        hint = f"; did you mean {KIND}:{name}?" if name and not colon else ""
        raise ConfigurationError(
            f"data.name must be {KIND}:PATH, PATH a .npz file or a folder with train.npz, got {name!r}{hint}"
        )
    path = Path(where)
    if not path.is_dir():
        return {"train": path}
    files = {"train": path / "train.npz", "test": path / "test.npz"}
    validation = [path / file for file in VALIDATION_FILES if (path / file).exists()]
    if len(validation) > 1:
        raise StorageError(f"{path}: expected one of {' and '.join(VALIDATION_FILES)}, got both")
    if not files["train"].exists():
        held = ", ".join(sorted(each.name for each in path.iterdir())[:10]) or "nothing"
        raise StorageError(f"{path}: expected a folder with train.npz, got one that holds {held}")
    files["validation"] = validation[0] if validation else path / VALIDATION_FILES[0]
    return {split: file for split, file in files.items() if file.exists()}


def check_share(share: float, what: str) -> float:
    """Return ``share``, or raise: between 0 and 1, neither of them."""
    if not 0 < share < 1:
        raise ConfigurationError(f"{what}, a share of the samples, must be in (0, 1), got {share}")
    return share


def _check_alike(first: Path, these: FieldPairs, path: Path, those: FieldPairs) -> None:
    """What a network learns on one grid holds on that grid."""
    for key, mine, other in (("inputs", these.inputs, those.inputs), ("targets", these.targets, those.targets)):
        if mine.shape[1:] != other.shape[1:]:
            raise StorageError(
                f"{path}, {key}: expected channels and space {_shape(mine)} as in {first.name}, got {_shape(other)}"
            )


def _shape(values: Tensor) -> tuple[int, ...]:
    return tuple(values.shape[1:])
