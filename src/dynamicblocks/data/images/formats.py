"""Readers of the official binary layouts. Nothing is unpickled."""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from dynamicblocks.data.images.splits import MemorySplit
from dynamicblocks.errors import StorageError

CIFAR_IMAGE = (3, 32, 32)
STL10_IMAGE = (3, 96, 96)
# The idx format's code for unsigned bytes, the only type that images and labels have.
IDX_BYTES = 0x08
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
    content = _content(path)
    if len(content) < 4 + 4 * rank or content[:4] != bytes((0, 0, IDX_BYTES, rank)):
        raise StorageError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'} where an idx file of {rank}-dimensional bytes has "
            f"00 00 {IDX_BYTES:02x} {rank:02x}; it is truncated or something else: {GET_AGAIN}"
        )
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    values = content[4 + 4 * rank :]
    if len(values) != prod(shape) or not values:
        raise StorageError(
            f"{path} says that it holds {' x '.join(map(str, shape))} = {prod(shape):,} bytes, but {len(values):,} "
            f"follow; it is truncated or damaged: {GET_AGAIN}"
        )
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).view(shape)


def read_names(path: Path, classes: int) -> tuple[str, ...]:
    """One class name a line."""
    names = tuple(_content(path).decode("utf-8", errors="replace").split())
    if len(names) != classes:
        raise StorageError(f"{path} names {len(names)} classes, expected {classes}; {GET_AGAIN}")
    return names


def _content(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise StorageError(f"{path} is truncated or no gzip file ({error}); {GET_AGAIN}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error


def _bytes(path: Path, *, multiple_of: int, what: str) -> Tensor:
    content = _content(path)
    if len(content) % multiple_of or not content:
        raise StorageError(
            f"{path} has {len(content):,} bytes, no whole number of {what} of {multiple_of:,} bytes; it is truncated "
            f"or something else: {GET_AGAIN}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _checked_labels(labels: Tensor, classes: int, path: Path) -> Tensor:
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise StorageError(
            f"{path}: image {first} has class {int(labels[first])} where classes are 0 to {classes - 1}; the file is "
            f"damaged or of another data set: {GET_AGAIN}"
        )
    return labels


def _check_pair(images: int, images_path: Path, labels: int, labels_path: Path) -> None:
    if images != labels:
        raise StorageError(
            f"{images_path} holds {images:,} images but {labels_path} {labels:,} labels; they do not belong together, "
            f"or one is truncated: {GET_AGAIN}"
        )
