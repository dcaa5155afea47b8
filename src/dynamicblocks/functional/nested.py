"""Nested states: tuples, lists and dictionaries of tensors, laid out as one tensor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError


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
                got = ", ".join(f"{path}: {value}" for path, value in values.items())
                raise ConfigurationError(f"all tensors of y0 must {what}, got {got}")
        return cls(y, tuple(tensor.shape for _, tensor in found), leading)

    @property
    def single(self) -> bool:
        """Whether the state is one tensor."""
        return isinstance(self.like, Tensor)

    def flat(self, y: Any) -> Tensor:
        """One tensor."""
        if self.single:
            return y
        lead = self.shapes[0][: self.leading]
        return torch.cat([tensor.reshape(*lead, -1) for _, tensor in leaves(y)], dim=-1)

    def nested(self, flat: Tensor, before: tuple[int, ...] = ()) -> Any:
        """The state again; ``before`` are sizes of dimensions in front, such as the times."""
        if self.single:
            return flat
        sizes = [shape[self.leading :].numel() for shape in self.shapes]
        parts = (
            part.reshape(*before, *shape)
            for part, shape in zip(torch.split(flat, sizes, dim=-1), self.shapes, strict=True)
        )
        return rebuilt(self.like, parts)

    def sample(self, flat: Tensor) -> Any:
        """The state of one sample, from its entries without the leading dimension."""
        if self.single:
            return flat
        shapes = [shape[self.leading :] for shape in self.shapes]
        sizes = [shape.numel() for shape in shapes]
        parts = torch.split(flat, sizes, dim=-1)
        return rebuilt(self.like, (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def func(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[Tensor, Tensor], Tensor]:
        """A right-hand side (t, y, *args) over nested states as one (t, y) over one tensor."""
        if self.single:
            return (lambda t, y: func(t, y, *args)) if args else func

        def flat_func(t: Tensor, y: Tensor) -> Tensor:
            slopes = func(t, self.nested(y), *args)
            found = list(leaves(slopes, "what func returns"))
            for (path, slope), shape in zip(found, self.shapes, strict=False):
                if slope.shape != shape:
                    raise ConfigurationError(
                        f"{path} must have the shape of its state, {tuple(shape)}, got {tuple(slope.shape)}"
                    )
            if len(found) != len(self.shapes):
                raise ConfigurationError(
                    f"func must return {len(self.shapes)} tensors, nested as the state is, got {len(found)}"
                )
            return self.flat(slopes)

        return flat_func
