"""Checksums of what the files of a run hold, so that a bit which a disk turned over is noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def checksum(tensors: Mapping[str, Tensor], content: Any) -> str:
    """The SHA-256 of plain values and of each tensor's name, type, shape and bytes."""
    found = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
