"""States in half precision, of which implicit methods need more digits than they have."""

from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


class WideStage:
    """A stage for states in single precision, whose field sees them in half.

    Its slopes are as coarse as the field makes them; what is made of them in a step is not.

    Args:
        stage: of the field.
        kind: the precision that it sees.
    """

    def __init__(self, stage: Any, kind: torch.dtype) -> None:
        self._stage, self._kind = stage, kind
        # Who is told of equations that were not solved.
        self.unsolved = getattr(stage, "unsolved", None)

    def __call__(self, c: float, y: Tensor) -> Tensor:
        slope: Tensor = self._stage(c, y.to(self._kind))
        return slope.to(y.dtype)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """A named part, likewise."""
        value: Tensor = self._stage.part(name, c, y.to(self._kind), *extra)
        return value.to(y.dtype)


def rounding(like: Tensor, kind: torch.dtype) -> float | None:
    """The share of a state below which its changes are lost in rounding; None where that is known from ``like``.

    Args:
        like: a state as it is computed with.
        kind: the precision of the caller's state, which is that of its field. Under autocast the state is finer.
    """
    device = like.device.type
    if kind in HALF:
        return torch.finfo(kind).eps
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.finfo(torch.get_autocast_dtype(device)).eps / 8
    return None
