"""From what a caller gives as a layer to independently initialised copies of it."""

import copy
import inspect
from collections.abc import Callable

from torch import nn
from torch.nn.parameter import is_lazy

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.antisymmetric import Antisymmetric
from dynamicblocks.layers.branch import PostactDouble, PostactSingle, PreactDouble, PreactSingle
from dynamicblocks.layers.double import Double
from dynamicblocks.layers.hamiltonian import HamiltonianPair
from dynamicblocks.layers.preact_symmetric import PreactSymmetric
from dynamicblocks.layers.registry import layers
from dynamicblocks.layers.residual_unit import ResidualUnit
from dynamicblocks.layers.symmetric import Symmetric
from dynamicblocks.layers.time_channel import TimedDouble
from dynamicblocks.memory import affordable, bytes_of, check_weights

LayerFactory = Callable[[], nn.Module]
LayerSource = str | nn.Module | LayerFactory

layers.register("preact_double")(PreactDouble)
layers.register("preact_single")(PreactSingle)
layers.register("postact_double")(PostactDouble)
layers.register("postact_single")(PostactSingle)
layers.register("symmetric")(Symmetric)
layers.register("antisymmetric")(Antisymmetric)
layers.register("double")(Double)
layers.register("preact_symmetric")(PreactSymmetric)
layers.register("hamiltonian")(HamiltonianPair)
layers.register("residual_unit")(ResidualUnit)
layers.register("timed_double")(TimedDouble)


def independent_layers(source: LayerSource, count: int) -> list[nn.Module]:
    """``count`` layers with weights of their own.

    Args:
        source: a factory (called ``count`` times, not kept), a string such as ``"symmetric(16)"``, or a module, of
            which copies are made and initialised anew by their modules' ``reset_parameters``.

    Raises:
        ConfigurationError: a factory needs arguments (perhaps it is a function of the state), gives something else or
            the same module twice, the copies differ in their parameters, or a module holds parameters and cannot reset
            them.
    """
    with affordable("a layer"):
        first = _make(source)
    if isinstance(first, nn.Module):
        check_weights(count * bytes_of(first), f"a block of {count:,} controls, each a {type(first).__name__}")
    made = [first, *(_make(source) for _ in range(count - 1))]
    for module in made:
        if not isinstance(module, nn.Module):
            raise ConfigurationError(f"the layer factory must return an nn.Module, got {type(module).__name__}")
        if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
            raise ConfigurationError(
                f"{type(module).__name__} has lazy parameters; run it once, or give the sizes, before building a block"
            )
    storages = [id(parameter) for module in made for parameter in module.parameters()]
    if len(set(map(id, made))) < count or len(set(storages)) < len(storages):
        raise ConfigurationError(
            "the layer factory returned the same module or parameter twice; build a new one a call"
        )
    forms = [_form(module) for module in made]
    for index, other in enumerate(forms):
        if other != forms[0]:
            differing = sorted(other.items() ^ forms[0].items())
            raise ConfigurationError(
                "the layer factory must return layers of one class, of the same shapes and types, but layers "
                f"0 and {index} differ in {', '.join(f'{name} {form}' for name, form in differing)}"
            )
    return made


def _form(module: nn.Module) -> dict[str, str]:
    """The class of a module, and shape and type of each of its tensors, by name."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    forms = {name: f"{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()}
    return {"class": type(module).__name__, **forms}


def _make(source: LayerSource) -> nn.Module:
    if isinstance(source, str):
        return layers.create(source)
    if isinstance(source, nn.Module):
        return reinitialised_copy(source)
    if not callable(source):
        raise ConfigurationError(f"the layer must be a factory, a module or a string, got {source!r}")
    _check_factory(source)
    return source()


def _check_factory(source: LayerFactory) -> None:
    """Raise for what has to be called with something, such as the function f itself."""
    try:
        signature = inspect.signature(source)
    except (TypeError, ValueError):  # code that is not Python's: functions such as torch.tanh, rarely classes
        takes, shown = not isinstance(source, type), ""
    else:
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        takes = any(p.default is p.empty and p.kind not in several for p in signature.parameters.values())
        shown = str(signature)
    if takes:
        raise ConfigurationError(
            f"the layer {getattr(source, '__name__', repr(source))}{shown} needs arguments, but a factory takes none "
            "and returns an nn.Module, such as `lambda: MyLayer(8)`; wrap a function of the state in an nn.Module with "
            "forward(y) or forward(t, y)"
        )


def reinitialised_copy(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with every weight drawn anew by the ``reset_parameters`` of the modules that hold them."""
    fresh = copy.deepcopy(module)
    for name, part in fresh.named_modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise ConfigurationError(
                f"cannot initialise a copy of {type(module).__name__}: its part {name or 'itself'!r} "
                f"({type(part).__name__}) holds parameters but has no reset_parameters(); give a factory instead, "
                "such as `lambda: MyLayer(...)`"
            )
    return fresh
