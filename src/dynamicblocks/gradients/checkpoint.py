"""Recomputation of segments of the grid in the backward pass."""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.base import Gradient, gradients
from dynamicblocks.marching import FixedMarch
from dynamicblocks.times import check_count


@gradients.register("checkpoint")
@dataclass(frozen=True)
class Checkpoint(Gradient):
    """Keep the state at the start of each segment of steps only; the backward pass runs a segment again to pass it.

    The gradients are those of backpropagation, bit for bit on one machine, at the price of a second forward pass
    (Chen et al. 2016, arXiv:1604.06174; per block, with one segment: ANODE, Gholami et al. 2019, arXiv:1902.10298).
    Random layers are replayed with the same draws and autocast with the same types; running statistics move in the
    forward pass alone, for recomputation runs on copies of the buffers as they were.

    Args:
        segments: how many; None for the square root of the number of steps (memory grows with that root), 1 to keep
            no more than a block's input. No more segments are made than there are steps.
    """

    segments: int | None = None

    def __post_init__(self) -> None:
        if self.segments is not None:
            check_count(self.segments, "segments")

    def check(self, layers: Iterable[nn.Module]) -> None:
        for layer in layers:
            for name, module in layer.named_modules():
                if any(isinstance(value, torch.Generator) for value in vars(module).values()):
                    raise ConfigurationError(
                        f"gradient='checkpoint' cannot replay {type(module).__name__} ({name or 'the layer itself'}): "
                        "it draws from a torch.Generator of its own; let it draw from the global one, or use "
                        "gradient='backprop'"
                    )

    def advance(self, march: FixedMarch, carry: object, first: int, last: int) -> object:
        if not torch.is_grad_enabled():
            return march.advance(carry, first, last)
        steps = last - first
        count = min(steps, self.segments or math.ceil(math.sqrt(steps)))
        bounds = [first + steps * part // count for part in range(count + 1)]
        for begin, end in pairwise(bounds):
            carry = _recomputed(march, carry, begin, end)
        return carry


def _recomputed(march: FixedMarch, carry: object, first: int, last: int) -> object:
    """``march.advance`` with nothing kept but its input."""
    if torch.compiler.is_compiling():
        # The compiler recomputes inside one graph, in which buffers are written once.
        return checkpoint(march.advance, carry, first, last, use_reentrant=False)
    replay = _Replay(march.layers_read(first, last))
    return checkpoint(
        march.advance,
        carry,
        first,
        last,
        use_reentrant=False,
        # Comparing the form of every saved tensor of both runs was 6 of 27 ms of bookkeeping at 64 steps.
        determinism_check="none",
        context_fn=lambda: (contextlib.nullcontext(), replay),
    )


class _Replay:
    """A context in which modules have copies of the buffers that they had when it was made.

    The live buffers come back untouched at its end. It can be entered again, once for each backward pass.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # The dictionaries in which modules keep their buffers: attribute access would check each of hundreds anew.
        self._places: list[tuple[dict[str, Tensor | None], str]] = []
        self._live: list[Tensor | None] = []
        alike: dict[tuple[torch.dtype, torch.device], list[tuple[int, Tensor]]] = {}
        for root in modules:
            for module in root.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        alike.setdefault((buffer.dtype, buffer.device), []).append((len(self._places), buffer))
                        self._places.append((module._buffers, name))
        # One copy for all buffers of a type: a normalisation has three small ones, and a block hundreds.
        self._kept = [
            ([index for index, _ in group], [buffer.shape for _, buffer in group], _joined([b for _, b in group]))
            for group in alike.values()
        ]

    def __enter__(self) -> None:
        self._live = [buffers[name] for buffers, name in self._places]
        for indices, shapes, joined in self._kept:
            parts = torch.split(joined.clone(), [shape.numel() for shape in shapes])
            for index, shape, part in zip(indices, shapes, parts, strict=True):
                buffers, name = self._places[index]
                buffers[name] = part.view(shape)

    def __exit__(self, *_exception: object) -> None:
        for (buffers, name), live in zip(self._places, self._live, strict=True):
            buffers[name] = live


def _joined(buffers: list[Tensor]) -> Tensor:
    """The entries of all buffers in one new tensor."""
    return torch.cat([buffer.detach().reshape(-1) for buffer in buffers])
