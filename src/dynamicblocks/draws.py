"""Random numbers that depend on what they are for, not on what was drawn before."""

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A random generator on the CPU whose draws depend on ``key`` alone, such as seed, epoch and step."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64).item()
    return torch.Generator().manual_seed(seed)
