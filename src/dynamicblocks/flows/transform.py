"""Invertible maps between data and base, with their log-determinants."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ConfigurationError


@dataclass(frozen=True)
class Transformed:
    """What a map makes of samples.

    Args:
        value: (n, *shape).
        log_det: log |det d value / d input|, (n,).
        penalties: integrals along the way by name, each (n,), where a transform was asked for them.
    """

    value: Tensor
    log_det: Tensor
    penalties: Mapping[str, Tensor] = field(default_factory=dict)


class Transform(nn.Module, ABC):
    """An invertible map, towards the base and towards the data."""

    @abstractmethod
    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        """From the data's side to the base's, in one pass with the log-determinant.

        Args:
            x: (n, *shape).
            context: (n, c).
            generator: of what is drawn on the way, as for an estimated trace; by default PyTorch's own.
        """

    @abstractmethod
    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        """From the base's side to the data's, likewise."""

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The value of :meth:`to_base` alone, which may cost less."""
        return self.to_base(x, context).value

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The value of :meth:`to_data` alone, which may cost less."""
        return self.to_data(z, context).value


class Standardise(Transform):
    """(x - mean) / std for each feature.

    Args:
        mean, std: of the shape of a sample, or broadcasting to it.

    Raises:
        ConfigurationError: a deviation is not positive, or a number is not finite.

    >>> Standardise(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0])).to_base(torch.tensor([[3.0, 5.0]])).value
    tensor([[1., 5.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        for name, each in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(each, dtype=torch.get_default_dtype()).clone())
        if not bool(torch.isfinite(self.mean).all() & torch.isfinite(self.std).all() & (self.std > 0).all()):
            raise ConfigurationError(
                "mean and std must be finite and each std above zero; a feature that is constant has no density: leave "
                "it out"
            )

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return Transformed((x - self.mean) / self.std, -self._log_det(x))

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return Transformed(z * self.std + self.mean, self._log_det(z))

    def _log_det(self, x: Tensor) -> Tensor:
        each: Tensor = self.std.log().expand(x.shape[1:]).sum()
        return each.expand(len(x)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.mean.shape)}"


class Compose(Transform):
    """Transforms one after the other.

    Args:
        transforms: that next to the data first.
    """

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        for each in self.transforms:
            if not isinstance(each, Transform):
                raise ArgumentError(f"a transform is expected, got {type(each).__name__}")

    @property
    def parts(self) -> list[Transform]:
        """The transforms, that next to the data first."""
        return cast(list[Transform], list(self.transforms))

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return _through(self.parts, "to_base", x, context, generator)

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        return _through(self.parts[::-1], "to_data", z, context, generator)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for each in self.parts:
            x = each.encode(x, context)
        return x

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for each in reversed(self.parts):
            z = each.decode(z, context)
        return z


def _through(
    transforms: list[Transform], way: str, value: Tensor, context: Tensor | None, generator: torch.Generator | None
) -> Transformed:
    log_det = value.new_zeros(len(value))
    penalties: dict[str, Tensor] = {}
    for each in transforms:
        found: Transformed = getattr(each, way)(value, context, generator)
        value, log_det = found.value, log_det + found.log_det
        for name, size in found.penalties.items():
            penalties[name] = penalties[name] + size if name in penalties else size
    return Transformed(value, log_det, penalties)
