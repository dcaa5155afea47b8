"""Tensors and plain values in one safetensors file, written so that a crash leaves the old file or the new one."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dynamicblocks.errors import StorageError

FORMAT = 2
_HEADER = "dynamicblocks"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a neighbouring path, flush it to disk, and rename it to ``path``."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Any) -> None:
    """Store named tensors and a header of plain values in one safetensors file, atomically and without pickle."""
    # Copies of their own: safetensors refuses tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(own, metadata={_HEADER: json.dumps({"format": FORMAT, "content": header})})
    write_atomically(path, lambda beside: beside.write_bytes(data))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what :func:`write_tensors` wrote: the tensors and the header.

    Raises:
        StorageError: the file is missing, truncated, of another program or of another version.
    """
    if not path.is_file():
        raise StorageError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} is truncated or not a safetensors file: {error}") from error
    if _HEADER not in metadata:
        raise StorageError(f"{path} was not written by dynamicblocks: its header has no entry {_HEADER!r}")
    try:
        header = json.loads(metadata[_HEADER])
    except json.JSONDecodeError as error:
        raise StorageError(f"{path} has a damaged header: {error}") from error
    if header.get("format") != FORMAT:
        raise StorageError(f"{path} has format {header.get('format')}, this version reads format {FORMAT}")
    return tensors, header["content"]


def write_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Store a tree of dictionaries, lists, tensors and plain values, such as the state of an optimiser."""
    tensors: dict[str, Tensor] = {}
    content = _pack(tree, tensors)
    write_tensors(path, tensors, content)


def read_tree(path: Path) -> dict[str, Any]:
    """Read what :func:`write_tree` wrote, or raise as :func:`read_tensors` does."""
    tensors, content = read_tensors(path)
    return _unpack(content, tensors)


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
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(entry, tensors) for key, entry in value["items"]}
    return value


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise if weights hold NaN or infinity."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise StorageError(f"{source} holds weights that are not finite: {', '.join(bad[:5])}; train it again")
