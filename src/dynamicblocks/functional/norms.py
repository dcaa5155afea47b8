"""Norms of errors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.functional.state import Layout
from dynamicblocks.integrators import Norm, rms_norm


def mixed_norm(parts: tuple[Tensor, ...]) -> Tensor | float:
    """The largest of the root mean squares of several tensors."""
    found = [rms_norm(part) for part in parts if part.numel()]
    return torch.stack(found).max() if found else 0.0


def flat_norm(norm: Callable[[Any], Any] | None, layout: Layout) -> Norm:
    """A norm of the caller's state, or the usual one, as a norm of the one tensor that the loop holds."""
    if layout.shapes is None:
        return rms_norm if norm is None else norm
    of_tuple = mixed_norm if norm is None else norm
    return lambda flat: of_tuple(layout.unflat(flat))  # type: ignore[arg-type]
