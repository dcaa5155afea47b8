"""Random numbers that depend on what they are for, not on what was drawn before."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*key: int) -> torch.Generator:
    """A random generator on the CPU whose draws depend on ``key`` alone, such as seed, epoch and step."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64).item()
    return torch.Generator().manual_seed(seed)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Normal random numbers of the type and on the device of ``like``, by a generator that may be of another device."""
    if generator is None or generator.device == like.device:
        return torch.randn(*shape, dtype=like.dtype, device=like.device, generator=generator)
    return torch.randn(*shape, dtype=like.dtype, generator=generator).to(like.device)


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Random numbers of [0, 1), likewise."""
    if generator is None or generator.device == like.device:
        return torch.rand(*shape, dtype=like.dtype, device=like.device, generator=generator)
    return torch.rand(*shape, dtype=like.dtype, generator=generator).to(like.device)
