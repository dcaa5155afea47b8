"""What an encoder reads: the observations of each series, from its last to its first."""

from typing import NamedTuple

import torch
from torch import Tensor


class Observations(NamedTuple):
    """Times of observation of a batch, those where something was seen, from the last to the first.

    A series that has fewer than others is padded behind its first one, with gaps of length zero.

    Args:
        inputs: (steps, n, 2 features), the values, zero where missing, and the mask beside them.
        gaps: (steps, n, 1), signed: from this time to the next one back, behind the first to the begin of the series.
        there: (steps, n, 1), bool: whether this is one of the series, and no padding.
    """

    inputs: Tensor
    gaps: Tensor
    there: Tensor

    @classmethod
    def of(cls, times: Tensor, values: Tensor, seen: Tensor, begin: Tensor) -> "Observations":
        """Of a batch as :class:`~dynamicblocks.sequences.SeriesModel` has it; ``begin``: (n,)."""
        met = seen.any(-1)
        # Stable, so that what is not met goes behind, and what is met stays in the order of time, backwards.
        order = met.flip(1).to(torch.int8).argsort(dim=1, descending=True, stable=True)
        order = (times.shape[1] - 1 - order)[:, : int(met.sum(1).max()) if met.numel() else 0]
        there, at = met.gather(1, order), times.gather(1, order)
        nexts = torch.cat([at[:, 1:], begin[:, None]], 1)
        ends = torch.cat([there[:, 1:], there.new_zeros(len(times), 1)], 1)[:, : order.shape[1]]
        gaps = nexts[:, : order.shape[1]].where(ends, begin[:, None]) - at
        index = order[..., None].expand(-1, -1, values.shape[-1])
        mask = seen.gather(1, index)
        inputs = torch.cat([values.gather(1, index).where(mask, 0.0), mask.to(values)], -1)
        gaps = gaps.where(there, 0.0).to(values)
        return cls(inputs.transpose(0, 1), gaps.t()[..., None], there.t()[..., None])
