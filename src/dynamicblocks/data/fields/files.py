"""Pairs of fields as they lie in a file of NumPy's ``.npz`` format."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from dynamicblocks.errors import StorageError

KEYS = ("inputs", "targets")
NPY = b"\x93NUMPY"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# Arrays that unpack to more than so many bytes are not read where they are packed to less than a share of one in so
# many: fields that vary do not become that small, but a file made to fill a memory does.
ALWAYS_READ, MOST_SHRUNK = 2**27, 100
# Names in a message, at most.
MOST_KEYS = 10
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
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError(f"{path}: expected a .npz file, got something that is no file")
        file = path.open("rb")
    except OSError as error:
        raise StorageError(f"{path}: expected a .npz file, got none that can be opened: {error.strerror}") from error
    with file:
        start = file.read(len(NPY))
        file.seek(0)
        if start == NPY:
            # NumPy would make room for whatever its header claims.
            raise StorageError(f"{path}: expected a .npz file with the keys {', '.join(KEYS)}, got a single array")
        try:
            archive = np.load(file, allow_pickle=False)
        except UNREADABLE as error:
            raise StorageError(f"{path}: expected a whole .npz file, got something else: {_why(error)}") from error
        if not isinstance(archive, NpzFile):
            raise StorageError(f"{path}: expected a .npz file with the keys {', '.join(keys)}, got a single array")
        for key in keys:
            _check_claims(path, archive, key, keys)
        return tuple(torch.from_numpy(_array(path, archive, key)) for key in keys)


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


def _check_claims(path: Path, archive: NpzFile, key: str, keys: Sequence[str]) -> None:
    """Raise for an array that is not what it should be, or not what it says, before room is made for it."""
    if key not in archive.files:
        listed = ", ".join(archive.files[:MOST_KEYS]) + (", ..." if len(archive.files) > MOST_KEYS else "")
        raise StorageError(f"{path}: expected the keys {', '.join(keys)}, got {listed or 'none'}")
    where = f"{path}, {key}"
    assert archive.zip is not None  # of an archive that is open
    try:
        entry = archive.zip.getinfo(key if key in archive.zip.NameToInfo else f"{key}.npy")
        with archive.zip.open(entry) as member:
            shape, dtype = _header(member)
            follow = entry.file_size - member.tell()
    except UNREADABLE as error:
        raise _unreadable(where, error) from error
    if dtype.hasobject:
        raise StorageError(f"{where}: expected a whole array of numbers, got Python objects; such are never read")
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise StorageError(f"{where}: expected float32 or float64, got {dtype}")
    if len(shape) not in (3, 4, 5) or 0 in shape:
        raise StorageError(f"{where}: expected the shape {LAYOUT}, none of them empty, got {shape}")
    claimed = prod(shape) * dtype.itemsize
    if claimed != follow:
        raise StorageError(
            f"{where}: its header says {' x '.join(map(str, shape))} numbers, {claimed:,} bytes, but {follow:,} "
            "follow; the file is damaged"
        )
    check_shrunk(where, entry)


def check_shrunk(where: str, entry: zipfile.ZipInfo) -> None:
    """Raise for an array that unpacks to so many times its size that no measurement can be in it."""
    if entry.file_size > max(ALWAYS_READ, MOST_SHRUNK * entry.compress_size):
        raise StorageError(
            f"{where}: expected numbers that were measured or computed, got {entry.compress_size:,} bytes that unpack "
            f"to {entry.file_size:,}, more than {MOST_SHRUNK} times as many; np.savez stores such without compression"
        )


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, read from the start of its file."""
    version = np.lib.format.read_magic(member)
    if version not in HEADERS:
        raise ValueError(f"a header of version {version[0]}.{version[1]}, which plain numbers never have")
    shape, _, dtype = HEADERS[version](member)
    return shape, dtype


def _array(path: Path, archive: NpzFile, key: str) -> NDArray[Any]:
    """One array, whose header was checked."""
    where = f"{path}, {key}"
    try:
        array: NDArray[Any] = archive[key]
    except UNREADABLE as error:
        raise _unreadable(where, error) from error
    # torch knows the byte order of this machine alone.
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    for sample, values in enumerate(array):
        if not np.isfinite(values).all():
            raise StorageError(f"{where}: expected finite numbers, got NaN or infinity in sample {sample}")
    return array


def _unreadable(where: str, error: BaseException) -> StorageError:
    return StorageError(f"{where}: expected a whole array of numbers, got one that cannot be read: {_why(error)}")


def _why(error: BaseException) -> str:
    """The first line of an error, or its kind where it has none."""
    if "pickle" in str(error):  # of which NumPy says how it could be read, which is never wanted
        return "it holds no plain numbers, but Python objects or nothing that NumPy knows; such are never read"
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
