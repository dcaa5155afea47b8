"""Nested states: tuples, lists and dictionaries of tensors, laid out as one tensor."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError, ArgumentTypeError, ConfigurationError
from dynamicblocks.integrators import Norm, rms_norm
from dynamicblocks.solving.misuse import same_but_for_ones


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


def aligned(like: Any, other: Any, what: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in ``other`` in the place of each tensor of ``like``, with the path to it.

    Keys of dicts decide, not their order. Lists, tuples and named tuples stand for each other by place, but for named
    tuples of different types.

    Raises:
        ConfigurationError: another nesting; ``what`` says of what.

    >>> [each for _, each in aligned({"a": torch.zeros(1), "b": torch.zeros(1)}, {"b": 2, "a": 1}, "slopes")]
    [1, 2]
    """
    if isinstance(like, Tensor):
        yield path, other
        return
    where = f" at {path}" if path else ""
    if isinstance(like, dict):
        if not isinstance(other, Mapping) or other.keys() != like.keys():
            keys = ", ".join(map(repr, like))
            raise ConfigurationError(f"{what}, a dict with the keys {keys}{where}, got {_form_of(other)}")
        places: Iterable[Any] = like
        paths = [f"{path}[{key!r}]" for key in like]
    else:
        apart = hasattr(like, "_fields") and hasattr(other, "_fields") and type(like) is not type(other)
        if not isinstance(other, (tuple, list)) or len(other) != len(like) or apart:
            of = "tensors" if all(isinstance(each, Tensor) for each in like) else "entries"
            raise ConfigurationError(f"{what}, {type(like).__name__} of {len(like)} {of}{where}, got {_form_of(other)}")
        places = range(len(like))
        paths = [f"{path}[{place}]" for place in places]
    for place, inner in zip(places, paths, strict=True):
        yield from aligned(like[place], other[place], what, inner)


def conformed(slopes: Any, like: Any) -> Any:
    """Slopes of a state such as ``like`` in its nesting, order and shapes, or an error that says what is wrong."""
    found = zip(aligned(like, slopes, SLOPES), tensors_in(like), strict=True)
    return rebuilt(like, iter([_shaped(slope, each.shape, path) for (path, slope), each in found]))


SLOPES = "func must return slopes nested as y0 is"


def _shaped(slope: object, shape: torch.Size, path: str) -> Tensor:
    """The slope of an entry in its shape; dimensions of size one may differ."""
    where = f" at place {path.strip('[]')}" if path else ""
    if not isinstance(slope, Tensor):
        raise ConfigurationError(
            f"func must return a tensor for every entry of the state, got {type(slope).__name__}{where}"
        )
    if slope.shape != shape and not same_but_for_ones(slope.shape, shape):
        raise ConfigurationError(
            f"func must return the slope of every entry of the state: shape {tuple(shape)}{where}, got "
            f"{tuple(slope.shape)}"
        )
    return slope.reshape(shape)


def _form_of(value: object) -> str:
    """A nesting in few words."""
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {name} with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        return f"{name} of {len(value)}"
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else name


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


REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
"""The types of real and imaginary parts."""


def _check_alike(found: list[tuple[str, Tensor]], leading: int) -> None:
    """Raise a ConfigurationError for tensors that cannot be one state."""
    for what, values in (
        ("lie on one device", {path: str(tensor.device) for path, tensor in found}),
        ("have the same samples first", {path: str(tuple(tensor.shape[:leading])) for path, tensor in found}),
    ):
        if len(set(values.values())) > 1:
            raise ConfigurationError(
                f"all tensors of y0 must {what}, got {', '.join(values.values())} at {', '.join(values)}"
            )


@dataclass(frozen=True)
class Nesting:
    """How a nested state lies in one tensor, whose ``leading`` first dimensions are those of every tensor in it.

    The one tensor has the widest type of the entries, and at least float32: increments that half precision could not
    show add up in it. Functions of the caller's see every entry in its own type. A state that is one tensor of such a
    type stays as it is.

    Args:
        like: the state.
        shapes, kinds: of its tensors.
        leading: how many dimensions they have in common.
    """

    like: Any
    shapes: tuple[torch.Size, ...]
    leading: int
    kinds: tuple[torch.dtype, ...] = ()
    # Derived: whether the state is one tensor, or a tuple of tensors, which needs no recursion; entries of each.
    single: bool = field(init=False, repr=False)
    _plain: bool = field(init=False, repr=False)
    _sizes: list[int] = field(init=False, repr=False)
    # Of all entries together, without and with what half precision lacks; whether they need no other types.
    seen: torch.dtype = field(init=False, repr=False)
    kind: torch.dtype = field(init=False, repr=False)
    _uniform: bool = field(init=False, repr=False)
    # Of times that a function of such a state expects.
    time_kind: torch.dtype = field(init=False, repr=False)
    # The distance of numbers in the least exact of the types that are narrower than float32; 0 if none is.
    eps: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain = type(self.like) is tuple and all(isinstance(each, Tensor) for each in self.like)
        seen = reduce(torch.promote_types, self.kinds) if self.kinds else torch.float32
        kind = torch.promote_types(seen, torch.float32)
        eps = 0.0
        for each in set(self.kinds) - {kind}:
            if torch.promote_types(each, torch.float32) != each:
                eps = max(eps, torch.finfo(each).eps)
        derived = {
            "single": isinstance(self.like, Tensor),
            "_plain": plain,
            "_sizes": [shape[self.leading :].numel() for shape in self.shapes],
            "seen": seen,
            "kind": kind,
            "_uniform": set(self.kinds) <= {kind},
            "time_kind": REAL.get(seen, seen),
            "eps": eps,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, y: Any, leading: int) -> "Nesting":
        """The nesting of a state, or an error that says what a state is."""
        found = list(leaves(y))
        if not found:
            raise ConfigurationError(f"y0 holds no tensor: {y!r:.80}")
        for path, tensor in found:
            if not (tensor.is_floating_point() or tensor.is_complex()):
                raise ConfigurationError(
                    f"{path} must hold floating point or complex numbers, for a state moves by small amounts; got "
                    f"{tensor.dtype}. Use {path}.float()"
                )
            if tensor.ndim < leading:
                raise ConfigurationError(
                    f"{path} needs a dimension for the samples, since batched=True or t has one; got shape "
                    f"{tuple(tensor.shape)}"
                )
        if len(found) > 1:
            _check_alike(found, leading)
        if found[0][1].is_meta:
            raise ConfigurationError(f"{found[0][0]} is on the meta device, which holds no numbers to begin with")
        shapes, kinds = zip(*[(tensor.shape, tensor.dtype) for _, tensor in found], strict=True)
        return cls(y, shapes, leading, kinds)

    def flat(self, y: Any) -> Tensor:
        """One tensor."""
        if self.single:
            return y if self._uniform else y.to(self.kind)
        return self._joined(y if self._plain else [tensor for _, tensor in leaves(y)])

    def _joined(self, parts: Iterable[Tensor]) -> Tensor:
        lead = self.shapes[0][: self.leading]
        sized = zip(parts, self._sizes, strict=True)
        joined = torch.cat([part.reshape(*lead, size) for part, size in sized], dim=-1)
        return joined if self._uniform else joined.to(self.kind)

    def nested(self, flat: Tensor, before: tuple[int, ...] = ()) -> Any:
        """The state again; ``before`` are sizes of dimensions in front, such as the times."""
        if self._uniform:
            return flat if self.single else self._split(flat, before)
        if self.single:
            return _narrowed(flat, self.kinds[0])
        found = zip(self._parts(flat, before), self.kinds, strict=True)
        return rebuilt(self.like, iter([_narrowed(part, kind) for part, kind in found]))

    def _split(self, flat: Tensor, before: tuple[int, ...] = ()) -> Any:
        """The state in the type of the one tensor."""
        parts = self._parts(flat, before)
        return tuple(parts) if self._plain else rebuilt(self.like, iter(parts))

    def _parts(self, flat: Tensor, before: tuple[int, ...]) -> list[Tensor]:
        found = torch.split(flat, self._sizes, dim=-1)
        return [part.reshape((*before, *shape)) for part, shape in zip(found, self.shapes, strict=True)]

    def sample(self, flat: Tensor) -> Any:
        """The state of one sample, from its entries without the leading dimension."""
        if self.single:
            return flat
        parts = zip(torch.split(flat, self._sizes, dim=-1), self.shapes, strict=True)
        return rebuilt(self.like, (part.reshape(shape[self.leading :]) for part, shape in parts))

    def func(self, func: Callable[..., Any], args: tuple[Any, ...] = ()) -> Callable[[Tensor, Tensor], Tensor]:
        """A right-hand side (t, y, *args) over nested states as one (t, y) over one tensor."""
        if self.single and self._uniform:
            return (lambda t, y: func(t, y, *args)) if args else func
        kind = self.time_kind

        def own_types(t: Tensor, y: Tensor) -> Any:
            return func(t.to(kind), self.nested(y), *args)

        return own_types if self.single else lambda t, y: self._slopes(own_types(t, y))

    def _slopes(self, slopes: Any) -> Tensor:
        """The slopes of all entries as one tensor, or an error that says which of them is wrong."""
        if self._plain and type(slopes) is tuple and len(slopes) == len(self.shapes):
            found = list(slopes)
        else:
            found = [slope for _, slope in aligned(self.like, slopes, SLOPES)]
        for n, (slope, shape) in enumerate(zip(found, self.shapes, strict=True)):
            if not isinstance(slope, Tensor) or slope.shape != shape:
                found[n] = _shaped(slope, shape, self._path(n))
        if self.kind.is_complex and not self._uniform:
            for n, (slope, kind) in enumerate(zip(found, self.kinds, strict=True)):
                if slope.is_complex() and not kind.is_complex:
                    raise ConfigurationError(
                        f"func returned complex numbers for a state of {kind} at place {self._path(n)}"
                    )
        try:
            return self._joined(found)
        except RuntimeError as error:
            devices = sorted({str(slope.device) for slope in found})
            if len(devices) == 1:
                raise
            raise ConfigurationError(
                f"func must return all slopes on one device, where the state is, got {', '.join(devices)}"
            ) from error

    def _path(self, n: int) -> str:
        """The path to the entry ``n``."""
        return [path for path, _ in leaves(self.like, "")][n].strip("[]")

    def tolerance(self, value: object, name: str) -> object:
        """A tolerance as a number or a tensor; for each entry, where there is one for each tensor of a nested state."""
        one = one_number(value, lists=len(self.shapes) < 2)
        if one is not None:
            return one
        if self.single:
            return _as_tensor(value, name)
        if isinstance(value, Tensor) and self.leading and value.shape[-1:] == (sum(self._sizes),) and value.ndim > 1:
            return value  # of all entries already
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise ArgumentTypeError(f"{name} must be a number, a tensor, or one for each tensor of y0, got {value!r}")
        values = [] if isinstance(value, Mapping) else list(value)
        if len(values) != len(self.shapes):
            what = f"{name} must be one number, or one for each of the {len(self.shapes)} tensors of the state"
            try:
                values = [each for _, each in aligned(self.like, value, what)]
            except ConfigurationError as error:
                raise ArgumentError(str(error)) from None
        parts = []
        for each, shape, path in zip(values, self.shapes, [path for path, _ in leaves(self.like)], strict=True):
            part = _as_tensor(each, name)
            try:
                parts.append(torch.broadcast_to(part, shape))
            except RuntimeError:
                raise ArgumentError(
                    f"{name} must broadcast to the shape {tuple(shape)} of {path}, got {tuple(part.shape)}"
                ) from None
        lead = self.shapes[0][: self.leading]
        return torch.cat([part.reshape(*lead, -1).to("cpu", torch.float64) for part in parts], dim=-1)

    def norm(self, norm: Callable[[Any], Any] | None) -> Norm:
        """A norm of the caller's state, or the usual one, as a norm of the one tensor that a loop holds."""
        if self.single:
            return rms_norm if norm is None else norm
        if norm is not None:
            return lambda flat: norm(self._split(flat))
        return lambda flat: mixed_norm(torch.split(flat, self._sizes, dim=-1))


ONE_TENSOR = Nesting(torch.empty(0), (), 0)
"""The nesting of any state that is one tensor."""


def _narrowed(part: Tensor, kind: torch.dtype) -> Tensor:
    """An entry in its own type, which may be real where others are complex."""
    return (part.real if part.is_complex() and not kind.is_complex else part).to(kind)


def one_number(value: Any, *, lists: bool) -> float | None:
    """A value that is one number; None for any other."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor):
        return None if value.numel() != 1 or value.requires_grad else float(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return float(value.reshape(())) if value.size == 1 and value.dtype.kind in "fiu" else None
    return one_number(value[0], lists=lists) if lists and isinstance(value, (tuple, list)) and len(value) == 1 else None


def _as_tensor(value: Any, name: str) -> Tensor:
    """Numbers in any form as a tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ArgumentTypeError(
            f"{name} must be a number or a tensor, or an array or list of numbers, got {value!r:.80}"
        ) from None


def mixed_norm(parts: Iterable[Tensor]) -> Tensor | float:
    """The largest of the root mean squares of several tensors."""
    found = [rms_norm(part) for part in parts if part.numel()]
    return torch.stack(found).max() if found else 0.0
