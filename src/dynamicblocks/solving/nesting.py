"""Nested states: tuples, lists and dictionaries of tensors, laid out as one tensor."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ArgumentTypeError, ConfigurationError
from dynamicblocks.integrators import Norm, rms_norm


def leaves(nested: Any, path: str = "y0") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested state, each with the path to it; anything else in it is an error.

    >>> [path for path, _ in leaves({"a": torch.zeros(1), "b": (torch.zeros(2), torch.zeros(3))})]
    ["y0['a']", "y0['b'][0]", "y0['b'][1]"]
    """
    if isinstance(nested, Tensor):
        yield path, nested
    elif isinstance(nested, dict):
        for key, value in nested.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(nested, (tuple, list)):
        for place, value in enumerate(nested):
            yield from leaves(value, f"{path}[{place}]")
    else:
        raise ConfigurationError(
            f"{path} must be a tensor, or a tuple, list or dict of such, got {type(nested).__name__}"
        )


def rebuilt(nested: Any, tensors: Iterator[Any]) -> Any:
    """The same nesting with other tensors, or anything else in their places."""
    if isinstance(nested, Tensor):
        return next(tensors)
    if isinstance(nested, dict):
        return {key: rebuilt(value, tensors) for key, value in nested.items()}
    values = [rebuilt(value, tensors) for value in nested]
    if isinstance(nested, list):
        return values
    # A named tuple takes its fields one by one.
    return type(nested)(*values) if hasattr(nested, "_fields") else tuple(values)


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """All tensors in tuples, lists and dicts of anything."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from tensors_in(value)
    elif isinstance(nested, (tuple, list)):
        for value in nested:
            yield from tensors_in(value)


@dataclass(frozen=True)
class Nesting:
    """How a nested state lies in one tensor, whose ``leading`` first dimensions are those of every tensor in it.

    A state that is one tensor stays as it is.
    """

    like: Any
    shapes: tuple[torch.Size, ...]
    leading: int
    # Derived: whether the state is one tensor, or a tuple of tensors, which needs no recursion; entries of each.
    single: bool = field(init=False, repr=False)
    _plain: bool = field(init=False, repr=False)
    _sizes: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain = type(self.like) is tuple and all(isinstance(each, Tensor) for each in self.like)
        object.__setattr__(self, "single", isinstance(self.like, Tensor))
        object.__setattr__(self, "_plain", plain)
        object.__setattr__(self, "_sizes", [shape[self.leading :].numel() for shape in self.shapes])

    @classmethod
    def of(cls, y: Any, leading: int) -> "Nesting":
        """The nesting of a state, or an error that says what a state is."""
        found = list(leaves(y))
        if not found:
            raise ConfigurationError(f"y0 holds no tensor: {y!r:.80}")
        for path, tensor in found:
            if tensor.ndim < leading:
                raise ConfigurationError(
                    f"{path} needs a dimension for the samples, since batched=True or t has one; got shape "
                    f"{tuple(tensor.shape)}"
                )
        for what, values in (
            ("lie on one device", {path: str(tensor.device) for path, tensor in found}),
            ("have the same samples first", {path: str(tuple(tensor.shape[:leading])) for path, tensor in found}),
        ):
            if len(set(values.values())) > 1:
                raise ConfigurationError(
                    f"all tensors of y0 must {what}, got {', '.join(values.values())} at {', '.join(values)}"
                )
        return cls(y, tuple(tensor.shape for _, tensor in found), leading)

    def flat(self, y: Any) -> Tensor:
        """One tensor."""
        if self.single:
            return y
        lead = self.shapes[0][: self.leading]
        parts = y if self._plain else [tensor for _, tensor in leaves(y)]
        return torch.cat([tensor.reshape(*lead, -1) for tensor in parts], dim=-1)

    def nested(self, flat: Tensor, before: tuple[int, ...] = ()) -> Any:
        """The state again; ``before`` are sizes of dimensions in front, such as the times."""
        if self.single:
            return flat
        found = torch.split(flat, self._sizes, dim=-1)
        parts = [part.reshape((*before, *shape)) for part, shape in zip(found, self.shapes, strict=True)]
        return tuple(parts) if self._plain else rebuilt(self.like, iter(parts))

    def sample(self, flat: Tensor) -> Any:
        """The state of one sample, from its entries without the leading dimension."""
        if self.single:
            return flat
        parts = zip(torch.split(flat, self._sizes, dim=-1), self.shapes, strict=True)
        return rebuilt(self.like, (part.reshape(shape[self.leading :]) for part, shape in parts))

    def func(self, func: Callable[..., Any], args: tuple[Any, ...] = ()) -> Callable[[Tensor, Tensor], Tensor]:
        """A right-hand side (t, y, *args) over nested states as one (t, y) over one tensor."""
        if self.single:
            return (lambda t, y: func(t, y, *args)) if args else func

        def flat_func(t: Tensor, y: Tensor) -> Tensor:
            slopes = func(t, self.nested(y), *args)
            found = dict(leaves(slopes, ""))
            if len(found) != len(self.shapes):
                raise ConfigurationError(
                    f"func must return {len(self.shapes)} tensors, nested as the state is, got {slopes!r:.80}"
                )
            for (path, slope), shape in zip(found.items(), self.shapes, strict=True):
                if slope.shape != shape:
                    raise ConfigurationError(
                        f"func must return the slope of every entry of the state: shape {tuple(shape)} at place "
                        f"{path.strip('[]')}, got {tuple(slope.shape)}"
                    )
            lead = self.shapes[0][: self.leading]
            return torch.cat([slope.reshape(*lead, -1) for slope in found.values()], dim=-1)

        return flat_func

    def tolerance(self, value: object, name: str) -> object:
        """A tolerance for each entry, where a tuple has one for each of its tensors."""
        if self.single or isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0):
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

    def norm(self, norm: Callable[[Any], Any] | None) -> Norm:
        """A norm of the caller's state, or the usual one, as a norm of the one tensor that a loop holds."""
        if self.single:
            return rms_norm if norm is None else norm
        if norm is not None:
            return lambda flat: norm(self.nested(flat))
        return lambda flat: mixed_norm(torch.split(flat, self._sizes, dim=-1))


ONE_TENSOR = Nesting(torch.empty(0), (), 0)
"""The nesting of any state that is one tensor."""


def mixed_norm(parts: Iterable[Tensor]) -> Tensor | float:
    """The largest of the root mean squares of several tensors."""
    found = [rms_norm(part) for part in parts if part.numel()]
    return torch.stack(found).max() if found else 0.0
