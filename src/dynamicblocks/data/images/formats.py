"""Readers of the official binary layouts. Nothing is unpickled."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from dynamicblocks.data.images.splits import MemorySplit
from dynamicblocks.errors import StorageError
from dynamicblocks.visible import legible

CIFAR_IMAGE = (3, 32, 32)
STL10_IMAGE = (3, 96, 96)
# The idx format's code for unsigned bytes, the only type that images and labels have.
IDX_BYTES = 0x08
# More than any official file has: MNIST's images take 47 million bytes, STL-10's 221 million.
MOST_IDX_BYTES, MOST_BYTES, MOST_NAME_BYTES = 2**27, 2**28, 2**16
CHUNK = 2**20
GET_AGAIN = "delete it and get it again"


def read_cifar(path: Path, classes: int, label_bytes: int = 1) -> MemorySplit:
    """Records of label bytes (the last one is the class), then the red, green and blue planes of 32 x 32 pixels."""
    record = label_bytes + prod(CIFAR_IMAGE)
    rows = _bytes(path, multiple_of=record, what="records").view(-1, record)
    labels = _checked_labels(rows[:, label_bytes - 1].long(), classes, path)
    return MemorySplit(rows[:, label_bytes:].reshape(-1, *CIFAR_IMAGE).clone(), labels)


def read_stl10(images: Path, labels: Path, classes: int) -> MemorySplit:
    """Images of 3 x 96 x 96 pixels stored column by column, and labels that count from one, in files of their own."""
    pixels = _bytes(images, multiple_of=prod(STL10_IMAGE), what="images").view(-1, *STL10_IMAGE)
    classes_of = _checked_labels(_bytes(labels, multiple_of=1, what="labels").long() - 1, classes, labels)
    _check_pair(len(pixels), images, len(classes_of), labels)
    return MemorySplit(pixels.transpose(2, 3).contiguous(), classes_of)


def read_idx_split(images: Path, labels: Path, classes: int) -> MemorySplit:
    """Grey images and their labels in two idx files."""
    pixels, classes_of = read_idx(images, rank=3), read_idx(labels, rank=1)
    _check_pair(len(pixels), images, len(classes_of), labels)
    return MemorySplit(pixels[:, None].contiguous(), _checked_labels(classes_of.long(), classes, labels))


def read_idx(path: Path, rank: int) -> Tensor:
    """An idx file of unsigned bytes, gzipped or not: zero, zero, type, rank, big-endian sizes, values.

    Raises:
        StorageError: it is of another type or rank, or shorter or longer than its sizes say.
    """
    with _opened(path) as file:
        head = file.read(4 + 4 * rank)
        if len(head) < 4 + 4 * rank or head[:4] != bytes((0, 0, IDX_BYTES, rank)):
            raise StorageError(
                f"{legible(path)} begins with {head[:4].hex(' ') or 'nothing'} where an idx file of {rank}-dimensional "
                f"bytes has 00 00 {IDX_BYTES:02x} {rank:02x}; it is truncated or something else: {GET_AGAIN}"
            )
        shape = struct.unpack(f">{rank}I", head[4:])
        claimed = f"{legible(path)} says that it holds {' x '.join(map(str, shape))} = {prod(shape):,} bytes"
        if prod(shape) > MOST_IDX_BYTES:
            raise StorageError(f"{claimed}, more than the {MOST_IDX_BYTES:,} that are read; it is damaged: {GET_AGAIN}")
        values = torch.empty(prod(shape), dtype=torch.uint8)
        count = _filled(file, values)
        # One byte more than there should be, which also makes gzip compare its checksum.
        more = len(file.read(1))
    if count + more != prod(shape) or not count:
        follow = f"{count + more:,}" + (" or more" if more else "")
        raise StorageError(f"{claimed}, but {follow} follow; it is truncated or damaged: {GET_AGAIN}")
    return values.view(shape)


def read_names(path: Path, classes: int) -> tuple[str, ...]:
    """One class name a line."""
    with _opened(path) as file:
        names = tuple(file.read(MOST_NAME_BYTES).decode("utf-8", errors="replace").split())
    if len(names) != classes:
        raise StorageError(f"{legible(path)} names {len(names)} classes, expected {classes}; {GET_AGAIN}")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, gzipped or not; what goes wrong while it is read is told with its name."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise StorageError(f"{legible(path)} is truncated or no gzip file ({error}); {GET_AGAIN}") from error
    except OSError as error:
        raise StorageError(f"{legible(path)} cannot be read: {error.strerror or error}") from error


def _filled(file: BinaryIO, values: Tensor) -> int:
    """How many bytes of a file filled a tensor of bytes; fewer than it has where the file ends."""
    place, view = 0, memoryview(cast(Any, values.numpy()))
    while place < len(view):
        count = file.readinto(view[place : place + CHUNK])  # type: ignore[attr-defined]
        if not count:
            break
        place += count
    return place


def _bytes(path: Path, *, multiple_of: int, what: str) -> Tensor:
    with _opened(path) as file:
        size = path.stat().st_size
        if size % multiple_of or not size:
            raise StorageError(
                f"{legible(path)} has {size:,} bytes, no whole number of {what} of {multiple_of:,} bytes; it is "
                f"truncated or something else: {GET_AGAIN}"
            )
        if size > MOST_BYTES:
            raise StorageError(
                f"{legible(path)} has {size:,} bytes, more than the {MOST_BYTES:,} of any official file: {GET_AGAIN}"
            )
        values = torch.empty(size, dtype=torch.uint8)
        if _filled(file, values) < size:
            raise StorageError(f"{legible(path)} became shorter while it was read; {GET_AGAIN}")
    return values


def _checked_labels(labels: Tensor, classes: int, path: Path) -> Tensor:
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise StorageError(
            f"{legible(path)}: image {first} has class {int(labels[first])} where classes are 0 to {classes - 1}; the "
            f"file is damaged or of another data set: {GET_AGAIN}"
        )
    return labels


def _check_pair(images: int, images_path: Path, labels: int, labels_path: Path) -> None:
    if images != labels:
        raise StorageError(
            f"{legible(images_path)} holds {images:,} images but {legible(labels_path)} {labels:,} labels; they do not "
            f"belong together, or one is truncated: {GET_AGAIN}"
        )
