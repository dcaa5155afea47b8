"""What is wrong with a right-hand side, said in one sentence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError
from dynamicblocks.layers.protocol import TIME

ORDER = "it is called as func(t, y), the time first"


def check_order(func: object) -> None:
    """Raise a ConfigurationError for a function whose parameters are named the other way round, such as (y, t)."""
    function: Any = func.forward if isinstance(func, nn.Module) else func
    bound = hasattr(function, "__self__")
    if not hasattr(function, "__code__"):
        function, bound = type(func).__call__, True
    code = getattr(function, "__code__", None)
    if code is None:
        return
    names = code.co_varnames[int(bound) : code.co_argcount]
    if names[1:2] and names[1] in TIME and names[0] not in TIME and not names[0].startswith("_"):
        raise ConfigurationError(
            f"the parameters of func are ({', '.join(names[:2])}), but {ORDER}: swap them, as in "
            f"lambda t, y: func(y, t)"
        )


def check_slope(value: object, t: Tensor, y: Tensor, *, exact: bool = False) -> Tensor:
    """The slope, or a ConfigurationError for what is none of a state such as ``y``.

    By default it may have other dimensions of size one.
    """
    if not isinstance(value, Tensor):
        raise ConfigurationError(f"func must return a tensor such as the state, got {_kind_of(value)}")
    if value.shape != y.shape and (exact or not same_but_for_ones(value.shape, y.shape)):
        of_time = f"; t has shape {tuple(t.shape)}" if t.ndim else ""
        of_time += f"; {ORDER}" if value.shape == t.shape else ""
        raise ConfigurationError(
            f"func must return the slope of every entry of the state: shape {tuple(y.shape)}, got "
            f"{tuple(value.shape)}{of_time}"
        )
    if value.device != y.device:
        raise ConfigurationError(f"func must return a tensor on {y.device}, where the state is, got {value.device}")
    if value.is_complex() and not y.is_complex():
        raise ConfigurationError(f"func returned complex numbers for a state of {y.dtype}")
    return value


def same_but_for_ones(one: torch.Size, other: torch.Size) -> bool:
    """Whether two shapes differ in dimensions of size one alone, so that entries stand for each other in order."""
    return [size for size in one if size != 1] == [size for size in other if size != 1]


def _kind_of(value: object) -> str:
    name = type(value).__name__
    if value is None:
        return "None; does it end without a return?"
    if isinstance(value, (int, float)):
        return f"the number {value!r}; use torch.full_like(y, {value!r})"
    if name == "ndarray":
        return "a NumPy array; use torch.as_tensor on it"
    return name


def explained(
    error: Exception, func: Callable[..., Any], owner: object, t: Tensor, y: Tensor, seen: torch.dtype
) -> Exception:
    """The error of a first evaluation: where its cause is known, a ConfigurationError that says what to do.

    Args:
        error: that was raised.
        func: what raised it, over one tensor.
        owner: the function as the caller gave it.
        t, y: what it was given.
        seen: the type of the state as the caller gave it.
    """
    if isinstance(error, DynamicBlocksError):
        return error
    line = (str(error).splitlines() or [""])[0]
    weights = [*owner.parameters(), *owner.buffers()] if isinstance(owner, nn.Module) else []
    devices = sorted({str(each.device) for each in weights} - {str(y.device)})
    if devices or "on the same device" in line or "meta tensor" in line:
        where = f"; its parameters and buffers are on {', '.join(devices)}" if devices else ""
        return ConfigurationError(
            f"func failed at its first evaluation, for a state on {y.device}{where}. Move both to one device, with "
            f"func.to(y0.device) or y0.to(...): {line}"
        )
    kinds = sorted({str(each.dtype) for each in weights if each.is_floating_point() or each.is_complex()} - {str(seen)})
    if isinstance(error, RuntimeError) and any(word in line for word in ("dtype", "scalar type", "should be the same")):
        of = f"; its parameters and buffers are {', '.join(kinds)}" if kinds else ""
        return ConfigurationError(
            f"func failed at its first evaluation, for a state of {seen}{of}. Let both have one type, with y0.to(...) "
            f"or func.to({seen}): {line}"
        )
    of_shape = any(word in line for word in ("0-d", "0D", "dimension", "shapes cannot be multiplied"))
    if t.shape != y.shape and of_shape and _works_swapped(func, t, y):
        return ConfigurationError(f"func works as func(y, t), but {ORDER}: swap its parameters. It said: {line}")
    return error


def _works_swapped(func: Callable[..., Any], t: Tensor, y: Tensor) -> bool:
    try:
        with torch.no_grad():
            value = func(y.clone(), t.clone())
    except Exception:
        return False
    return isinstance(value, Tensor) and value.shape == y.shape
