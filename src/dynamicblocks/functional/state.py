"""States as callers hold them (tensors, tuples) and as the loops do: one tensor."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.errors import ArgumentError, ArgumentTypeError

State = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Layout:
    """How a tuple of tensors lies in one vector; None for a state that is one tensor already."""

    shapes: tuple[torch.Size, ...] | None

    @classmethod
    def of(cls, y: State) -> "Layout":
        """The layout of a state, or an error that says what a state is."""
        if isinstance(y, Tensor):
            return cls(None)
        if not isinstance(y, tuple) or not all(isinstance(each, Tensor) for each in y):
            raise ArgumentError(f"y0 must be either a torch.Tensor or a tuple of them, got {type(y).__name__}")
        if len({each.device for each in y}) > 1:
            devices = ", ".join(str(each.device) for each in y)
            raise ConfigurationError(f"all tensors of y0 must lie on one device, got {devices}")
        return cls(tuple(each.shape for each in y))

    def flat(self, y: State) -> Tensor:
        """One tensor."""
        if self.shapes is None:
            return y  # type: ignore[return-value]
        return torch.cat([each.reshape(-1) for each in y])

    def unflat(self, flat: Tensor, leading: Sequence[int] = ()) -> State:
        """The state again, with dimensions before it, such as the times."""
        if self.shapes is None:
            return flat
        parts = torch.split(flat, [shape.numel() for shape in self.shapes], dim=-1)
        return tuple(part.reshape((*leading, *shape)) for part, shape in zip(parts, self.shapes, strict=True))

    def func(self, func: Callable[..., State]) -> Callable[[Tensor, Tensor], Tensor]:
        """A right-hand side over one tensor."""
        if self.shapes is None:
            return func  # type: ignore[return-value]
        shapes = self.shapes

        def flat_func(t: Tensor, y: Tensor) -> Tensor:
            slopes = func(t, self.unflat(y))
            if not isinstance(slopes, (tuple, list)) or len(slopes) != len(shapes):
                raise ConfigurationError(
                    f"func must return {len(shapes)} tensors, as the state has, got {slopes!r:.80}"
                )
            for place, (slope, shape) in enumerate(zip(slopes, shapes, strict=True)):
                if slope.shape != shape:
                    raise ConfigurationError(
                        f"func must return the slope of every entry of the state: shape {tuple(shape)} at place "
                        f"{place}, got {tuple(slope.shape)}"
                    )
            return torch.cat([slope.reshape(-1) for slope in slopes])

        return flat_func

    def tolerance(self, value: object, name: str) -> object:
        """A tolerance for each entry, where a tuple has one for each of its tensors."""
        if self.shapes is None or isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0):
            return value
        if not isinstance(value, Iterable):
            raise ArgumentTypeError(f"{name} must be a number, a tensor, or one for each tensor of y0, got {value!r}")
        values = list(value)
        if len(values) != len(self.shapes):
            raise ArgumentError(
                f"{name} must be one number, or one for each of the {len(self.shapes)} tensors of the state, got "
                f"{len(values)}"
            )
        parts = [torch.as_tensor(each).expand(shape.numel()) for each, shape in zip(values, self.shapes, strict=True)]
        return torch.cat(parts)
