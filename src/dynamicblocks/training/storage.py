"""Tensors and plain values in one safetensors file, with a checksum, and texts and pictures: what a run stores."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dynamicblocks.bounded_json import LARGEST, as_object, parsed, written
from dynamicblocks.errors import StorageError
from dynamicblocks.training.checksums import checksum
from dynamicblocks.training.disk import write_atomically

FORMAT = 3
READ = (2, 3)
"""The formats that are read; files of format 2 have no checksum."""
_HEADER = "dynamicblocks"

LARGEST_NUMBER = 1e30
"""No weight, statistic or momentum of a training that works is larger: its square would be no float32 any more."""
# Names in a message.
NAMED = 5

Told = Callable[[str], object]
"""What hears of a file that an earlier version wrote."""
log = logging.getLogger(__name__).warning
"""Says it in a program that does not say how: such a file is no mistake of whoever reads it."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write plain values atomically."""
    write_text(path, written(value, str(path), indent) + "\n")


def write_picture(path: Path, save: Callable[..., object], dpi: int) -> None:
    """Write a picture atomically, of the kind that its name ends with; ``save`` is ``savefig`` of matplotlib's."""
    buffer = BytesIO()
    save(buffer, dpi=dpi, format=path.suffix.removeprefix(".") or "png")
    write_atomically(path, buffer.getvalue())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Any) -> None:
    """Store named tensors and plain values in one safetensors file, atomically and without pickle."""
    # Copies of their own: safetensors refuses tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    plain = parsed(written(content, f"the content of {path}"), f"{path}")
    header = {"format": FORMAT, "sha256": checksum(own, plain), "content": plain}
    data = save(own, metadata={_HEADER: written(header, str(path))})
    length = _header_length(data)
    if length > LARGEST:
        raise StorageError(f"{path} would have a header of {length:,} bytes; at most {LARGEST:,} are read")
    write_atomically(path, data)


def read_tensors(path: Path, told: Told = log) -> tuple[dict[str, Tensor], Any]:
    """Read what :func:`write_tensors` wrote: the tensors and the plain values.

    Args:
        path: of the file.
        told: hears of a file without a checksum.

    Raises:
        StorageError: the file is missing, damaged, of another program or of another version.
    """
    _check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _HEADER not in metadata:
                raise StorageError(f"{path} was not written by dynamicblocks: its header has no entry {_HEADER!r}")
            header = _header(path, metadata[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())
        raise StorageError(f"{path} is truncated or not a safetensors file: {said:.200}") from error
    if "sha256" not in header:
        told(f"{path} is of an earlier version and has no checksum, by which damage to it would be noticed")
    elif header["sha256"] != checksum(tensors, header["content"]):
        raise StorageError(
            f"{path} is damaged: its checksum is not that of what it holds; take a copy of it, or train it again"
        )
    return tensors, header["content"]


def _check_size(path: Path) -> None:
    """Raise unless a file is one that has the header which its first bytes promise."""
    if not path.exists():
        raise StorageError(f"{path} does not exist")
    if not path.is_file():
        raise StorageError(f"{path} is no regular file")
    try:
        with path.open("rb") as file:
            length, size = _header_length(file.read(8)), path.stat().st_size
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    if size < 8 or length > min(size - 8, LARGEST):
        raise StorageError(
            f"{path} is truncated or not a safetensors file: its first bytes promise a header of {length:,} bytes, in "
            f"a file of {size:,}"
        )


def _header_length(data: bytes) -> int:
    """The length of the header, which a safetensors file begins with."""
    return int.from_bytes(data[:8], "little")


def _header(path: Path, text: str) -> dict[str, Any]:
    where = f"{path} has a damaged header: it"
    header = as_object(parsed(text, where, "an object", infinite=True), where)
    if header.get("format") not in READ:
        raise StorageError(
            f"{path} has format {header.get('format')!r:.40}, this version reads format {' and '.join(map(str, READ))}"
        )
    for name in ("content",) if header["format"] == 2 else ("content", "sha256"):
        if name not in header:
            raise StorageError(f"{where} has no {name!r}")
    return header


def write_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Store a tree of dictionaries, lists, tensors and plain values, such as the state of an optimiser."""
    tensors: dict[str, Tensor] = {}
    content = _pack(tree, tensors)
    write_tensors(path, tensors, content)


def read_tree(path: Path, told: Told = log) -> dict[str, Any]:
    """Read what :func:`write_tree` wrote, or raise as :func:`read_tensors` does."""
    tensors, content = read_tensors(path, told)
    try:
        return as_object(_unpack(content, tensors), f"the content of {path}")
    except (KeyError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise StorageError(f"{path} has a damaged header: its content describes no tree ({said:.100})") from error


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of a value; tensors move to ``tensors`` and leave their key."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, Mapping):
        # Pairs, since JSON would turn the integer keys of optimisers into strings.
        return {"items": [[key, _pack(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(entry, tensors) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):  # which JSON has no numbers for
        return {"number": str(value)}
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "number" in value:
            return float(value["number"])
        return {key: _unpack(entry, tensors) for key, entry in value["items"]}
    return value


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise unless all numbers are finite and of a size that they have in trainings, and variances are none below zero.

    Raises:
        StorageError: it names the first ones.
    """
    found = unsound(tensors.items())
    if found:
        raise StorageError(f"{source} holds {found}; train it again")


def unsound(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """What no training that works has among these tensors, and which they are; empty where there is nothing of it."""
    wrong: dict[str, list[str]] = {}
    for name, tensor in tensors:
        found = _wrong(name, tensor)
        if found:
            wrong.setdefault(found, []).append(name)
    return "; ".join(f"{what}: {', '.join(names[:NAMED])}" for what, names in wrong.items())


def _wrong(name: str, tensor: Tensor) -> str:
    if not tensor.is_floating_point() or not tensor.numel():
        return ""
    low, high = (float(each) for each in torch.aminmax(tensor))
    if not (math.isfinite(low) and math.isfinite(high)):
        return "weights that are not finite"
    if max(-low, high) > LARGEST_NUMBER:
        return f"numbers beyond {LARGEST_NUMBER:g}"
    return "variances below zero" if low < 0 and name.endswith("running_var") else ""
