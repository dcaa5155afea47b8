"""Base distributions of flows: what samples are before they move."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamicblocks.draws import normal, uniform
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.registry import Registry


class Base(nn.Module, ABC):
    """A distribution whose density is known and from which samples are drawn.

    Args:
        shape: of a sample.
    """

    like: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        # Samples are of its type and on its device.
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """The logarithm of the density, (n,), of samples (n, *shape)."""

    @abstractmethod
    def sample(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """New samples, (number, *shape)."""

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


bases: Registry[Base] = Registry("base distribution")


@bases.register("gaussian")
class Gaussian(Base):
    """Normal, of mean 0 and deviation 1 in each number.

    >>> Gaussian((2,)).log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def log_prob(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return -0.5 * (flat.square().sum(-1) + flat.shape[1] * math.log(2 * math.pi))

    def sample(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        return normal((number, *self.shape), self.like, generator)


CENTRES, RADIUS, VARIANCE = 8, 5.0, 0.1


@bases.register("eight_gaussians")
class EightGaussians(Base):
    """Eight normal distributions of variance 0.1 on a circle of radius 5, as many samples in each.

    >>> EightGaussians((2,)).sample(5).shape
    torch.Size([5, 2])
    """

    centres: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        if self.shape != (2,):
            raise ConfigurationError(f"the base 'eight_gaussians' has two numbers a sample, the data {self.shape}")
        angles = 2 * math.pi * torch.arange(CENTRES) / CENTRES
        self.register_buffer("centres", RADIUS * torch.stack((angles.cos(), angles.sin()), dim=-1), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        squares = (z[:, None] - self.centres.to(z.dtype)).square().sum(-1)
        return torch.logsumexp(-0.5 * squares / VARIANCE, dim=-1) - math.log(CENTRES * 2 * math.pi * VARIANCE)

    def sample(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        which = (uniform((number,), self.like, generator) * CENTRES).long()
        return self.centres[which] + math.sqrt(VARIANCE) * normal((number, 2), self.like, generator)


def make_base(name: str, shape: Sequence[int]) -> Base:
    """The base of that name for samples of that shape.

    Raises:
        ConfigurationError: there is none, or it is of another shape.
    """
    return bases[name](shape)
