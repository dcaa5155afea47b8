"""What modules say about a tensor that they cannot take."""

import re
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError
from dynamicblocks.layers.branch import Branch
from dynamicblocks.layers.dimensions import AXES, INPUTS, extent, shape_of
from dynamicblocks.layers.double import Double
from dynamicblocks.layers.hamiltonian import HamiltonianPair
from dynamicblocks.layers.norms import TVNorm
from dynamicblocks.layers.one_kernel import OneKernel
from dynamicblocks.layers.residual_unit import ResidualUnit
from dynamicblocks.layers.semi_implicit import SemiImplicit
from dynamicblocks.layers.time_channel import TimedDouble

P = ParamSpec("P")
R = TypeVar("R")


def no_tensor(value: object) -> str:
    """What came in the place of the one tensor that a block carries, and what to do."""
    name = type(value).__name__
    if not isinstance(value, tuple | list | Mapping):
        return f"got {name}"
    return (
        f"got {name}: a block carries one state; concatenate several along the channels, torch.cat((y, z), dim=1), and "
        "split them in the layer, or use dynamicblocks.solve, whose states may be nested"
    )


def check_state(layer: nn.Module, y: Tensor) -> None:
    """Raise a ConfigurationError for a state that one of the library's own layers, or its device, cannot take."""
    if isinstance(layer, Branch | ResidualUnit | OneKernel | Double | HamiltonianPair | SemiImplicit | TimedDouble):
        check_input(layer, y, layer.width, "a state", layer.dims)
    else:
        check_input(layer, y)


def check_input(module: nn.Module, y: Tensor, width: int | None = None, what: str = "a state", dims: int = 2) -> None:
    """Raise a ConfigurationError for a tensor that has not so many channels (None: any tensor) and dimensions.

    Or that has no data, where the weights have some: PyTorch computes shapes then, without a word.
    """
    if not isinstance(y, Tensor):
        raise ConfigurationError(f"{type(module).__name__} expected {what}, a tensor, got {type(y).__name__}")
    if width is not None and (y.ndim != dims + 2 or y.shape[1] != width):
        other = y.ndim - 2
        fits = other != dims and other in AXES and y.shape[1] == width
        advice = f"; {INPUTS[other]} are taken by one that is made with dims={other}" if fits else ""
        raise ConfigurationError(f"expected {what} of shape {shape_of(dims, width)}, got {tuple(y.shape)}{advice}")
    for weight in module.parameters():
        if weight.is_meta != y.is_meta:
            raise ConfigurationError(_on_devices(type(module).__name__, weight, y))
        break


def _on_devices(name: str, weight: Tensor, y: Tensor) -> str:
    return f"{name} has its weights on {weight.device} and was given a tensor on {y.device}; move either, .to()"


def telling_causes(forward: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method of a module: what PyTorch says of its input becomes one sentence for the caller.

    Nothing is looked at before something has failed.
    """

    @wraps(forward)
    def run(*args: P.args, **keywords: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return forward(*args, **keywords)
        try:
            return forward(*args, **keywords)
        except DynamicBlocksError:
            raise
        except Exception as error:
            cause = cause_of(error)
            if cause is None:
                raise
            raise ConfigurationError(cause) from error

    return run


def cause_of(error: Exception) -> str | None:
    """Why a module of PyTorch's failed on its input, and what to do; None where it is not known."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            values: list[Any] = list(frame.f_locals.values())
            y = next((each for each in values if isinstance(each, Tensor) and not isinstance(each, nn.Parameter)), None)
            return None if y is None else _cause(module, y)
    return None


def _cause(module: nn.Module, y: Tensor) -> str | None:
    name, shape = type(module).__name__, tuple(y.shape)
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    weights = [each for each in own if each.is_floating_point()]
    for weight in weights:
        if weight.device != y.device:
            return _on_devices(name, weight, y)
    if not torch.is_autocast_enabled(y.device.type):
        for weight in weights:
            if weight.dtype != y.dtype:
                other = f", or net.to({y.dtype})" if y.is_floating_point() else ""
                return (
                    f"{name} has weights of {weight.dtype} and was given a tensor of {y.dtype}; convert: "
                    f"y.to({weight.dtype}){other}"
                )
    channels = _channels(module)
    if channels is not None and (y.ndim < 2 or y.shape[1] != channels):
        return f"{name} takes {channels} channels, in the second dimension, and was given a tensor of shape {shape}"
    dims = _dims(module)
    if dims is not None and y.ndim not in (dims + 2, *((2,) if dims == 1 else ())):
        return f"{name} takes (batch, channels, {AXES[dims]}), and was given a tensor of shape {shape}"
    boundary, padding = _padding(module)
    if padding and y.ndim == len(padding) + 2:
        # A mirror image has no pixel of the edge itself, a periodic one goes around once.
        least = tuple(each + (boundary == "reflect") for each in padding)
        if any(size < needed for size, needed in zip(shape[2:], least, strict=True)):
            what = INPUTS[len(padding)]
            return (
                f"boundary={boundary!r} of {name} needs {what} of at least {extent(least)} pixels, and was "
                f"given a tensor of shape {shape}; take larger {what}, fewer strides, or boundary='replicate' or "
                "'zeros'"
            )
    if _statistics_of_one(module, y):
        advice = "" if isinstance(module, nn.GroupNorm) else ", or call eval()"
        return (
            f"{name} takes mean and variance of several values, and was given one for each, shape {shape}; take larger "
            f"batches or images, a norm such as 'tv'{advice}"
        )
    return None


def _statistics_of_one(module: nn.Module, y: Tensor) -> bool:
    """Whether a normalisation has one value to take the variance of."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return y[:1, :1].numel() == 1
    if isinstance(module, nn.GroupNorm):
        return y.numel() == module.num_groups
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and y.numel() == y.shape[1]


def _channels(module: nn.Module) -> int | None:
    """How many channels a module takes in the second dimension."""
    if isinstance(module, OneKernel):
        return module.width
    if isinstance(module, TVNorm):
        return None if module.weight is None else len(module.weight)
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.in_channels
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


def _dims(module: nn.Module) -> int | None:
    """How many axes a normalisation of PyTorch's takes behind the channels."""
    if not isinstance(module, nn.modules.batchnorm._NormBase):
        return None
    found = re.search(r"([123])d$", type(module).__name__)
    return int(found.group(1)) if found else None


def _padding(module: nn.Module) -> tuple[str, tuple[int, ...]]:
    """The boundary condition of a convolution, and how many pixels its padding copies along each axis."""
    if isinstance(module, OneKernel):
        boundary, padding = module.boundary, (module.weight.shape[-1] // 2,) * module.dims
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and isinstance(module.padding, tuple):
        boundary, padding = module.padding_mode, module.padding
    else:
        return "", ()
    return boundary, padding if boundary in ("reflect", "circular") else ()
