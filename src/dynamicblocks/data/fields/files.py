"""Pairs of fields as they lie in a file of NumPy's ``.npz`` format."""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.errors import StorageError

KEYS = ("inputs", "targets")
LAYOUT = "(samples, channels, *space) with 1, 2 or 3 dimensions of space"
# What NumPy and zipfile raise on files that are damaged, encrypted, or something else.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class FieldPairs:
    """Inputs and targets (samples, channels, *space), in float32 or float64, as they were written."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def space(self) -> tuple[int, ...]:
        """Points along each dimension of space."""
        return tuple(self.inputs.shape[2:])

    def select(self, rows: Tensor) -> "FieldPairs":
        """The samples with these numbers, in this order."""
        return FieldPairs(self.inputs[rows], self.targets[rows])


def read_inputs(path: Path) -> Tensor:
    """The inputs of a file, which need no targets beside them.

    Raises:
        StorageError: it is missing or damaged, or holds no inputs as they should be.
    """
    (inputs,) = _arrays(path, KEYS[:1])
    return inputs


def _arrays(path: Path, keys: Sequence[str]) -> tuple[Tensor, ...]:
    """The arrays of a file under these keys, checked."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageError(f"{path}: expected a .npz file, got none that can be opened: {error.strerror}") from error
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except UNREADABLE as error:
            raise StorageError(f"{path}: expected a whole .npz file, got something else: {_why(error)}") from error
        if not isinstance(archive, NpzFile):
            raise StorageError(f"{path}: expected a .npz file with the keys {', '.join(keys)}, got a single array")
        return tuple(torch.from_numpy(_array(path, archive, key, keys)) for key in keys)


def read_pairs(path: Path) -> FieldPairs:
    """The pairs of a file.

    Raises:
        StorageError: it is missing or damaged, or its arrays are not what they should be.
    """
    inputs, targets = _arrays(path, KEYS)
    if (len(inputs), inputs.shape[2:]) != (len(targets), targets.shape[2:]):
        raise StorageError(
            f"{path}: expected targets with the samples and the space of inputs {tuple(inputs.shape)}, got "
            f"{tuple(targets.shape)}"
        )
    return FieldPairs(inputs, targets)


def _array(path: Path, archive: NpzFile, key: str, keys: Sequence[str]) -> NDArray[Any]:
    """One array, checked."""
    if key not in archive.files:
        raise StorageError(f"{path}: expected the keys {', '.join(keys)}, got {', '.join(archive.files) or 'none'}")
    where = f"{path}, {key}"
    try:
        array = archive[key]
    except UNREADABLE as error:
        raise StorageError(
            f"{where}: expected a whole array of numbers, got one that cannot be read: {_why(error)}"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise StorageError(f"{where}: expected float32 or float64, got {getattr(array, 'dtype', 'no array')}")
    if array.ndim not in (3, 4, 5) or 0 in array.shape:
        raise StorageError(f"{where}: expected the shape {LAYOUT}, none of them empty, got {array.shape}")
    # torch knows the byte order of this machine alone.
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    for sample, values in enumerate(array):
        if not np.isfinite(values).all():
            raise StorageError(f"{where}: expected finite numbers, got NaN or infinity in sample {sample}")
    return array


def _why(error: BaseException) -> str:
    """The first line of an error, or its kind where it has none."""
    if "pickle" in str(error):  # of which NumPy says how it could be read, which is never wanted
        return "it holds no plain numbers, but Python objects or nothing that NumPy knows; such are never read"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
