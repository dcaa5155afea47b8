"""Stand-ins of modules: the same module with other tensors, for one call, while the module itself is left as it is."""

import copy
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.parts import called

M = TypeVar("M", bound=nn.Module)

# What every module keeps of its own accord; it is handed on as it is, but for the three that hold tensors.
_USUAL = frozenset(vars(nn.Module()))
# What cannot lead to a module or a tensor.
_PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size})
# Longer lists are records of calls, not places of weights; looking through them would cost more with every call.
_MANY = 1000
# Modules of these packages set no attributes when they are called; what hooks set in them is read where it stands.
_STILL = ("torch.nn.modules.", "dynamicblocks.layers.")
# Before 2.12 the compiler knows no attributes of a module but by their names, and cannot copy it.
_TRACES_STAND_INS = tuple(int(each) for each in torch.__version__.split(".")[:2]) >= (2, 12)
# Under these names a stand-in keeps what is its own affair; on a class, the class of its stand-ins.
_MODULE, _BEGINNING, _CLASS = "_stands_for", "_beginning", "_stand_in_class"


class StandIn:
    """What the class of a stand-in has beside that of its module.

    A stand-in has parameters, buffers and submodules of its own, and else nothing: attributes are read where they
    stand, in the module. What a call sets arrives there at once, as numbers that count calls or guard against recursion
    need it. Tensors are kept as well, so that a call reads back those that it has set, whatever others set meanwhile;
    those that a forward pre-hook computes, as ``weight_norm`` does, are kept only: they belong to the weights of this
    call. Stand-ins are equal to their modules, for tables of modules in hooks.
    """

    def __init_subclass__(cls) -> None:
        """Nothing: what a class does for its subclasses is not meant for stand-ins."""

    def __getattr__(self, name: str) -> Any:
        live = vars(vars(self)[_MODULE])
        if name in live and name not in _USUAL:
            return live[name]
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        own = vars(self)
        if name in own:
            if not (isinstance(value, Tensor) and own.get(_BEGINNING)):
                vars(own[_MODULE])[name] = value
            if not isinstance(value, Tensor) and name not in _USUAL:
                del own[name]
                # Stand-ins that were made with a copy of it, or will be, read it where it stands from now on.
                setattr(type(self), name, _Live(name))
        elif isinstance(value, nn.Module) and name in own["_modules"]:
            own[_MODULE]._modules[name] = value

    def __delattr__(self, name: str) -> None:
        own = vars(self)
        if own.pop(name, None) is not None or name in vars(own[_MODULE]):
            vars(own[_MODULE]).pop(name, None)
        else:
            super().__delattr__(name)

    def __eq__(self, other: object) -> bool:
        return original(self) is original(other)

    def __hash__(self) -> int:
        return hash(original(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(_plain(self), memo)


class _Live:
    """An attribute of stand-ins that is read and set in the module, but where it is a tensor that the call has set."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, standing: Any, _of: type | None = None) -> Any:
        own = vars(standing)
        if isinstance(own.get(self._name), Tensor):
            return own[self._name]
        live = vars(own[_MODULE])
        if self._name in live:
            return live[self._name]
        raise AttributeError(self._name)

    def __set__(self, standing: Any, value: Any) -> None:
        vars(standing)[self._name] = value


def _plain(standing: Any) -> nn.Module:
    """A module with the tensors of a stand-in, and all that its own module has: copies and pickles are such modules."""
    module = original(standing)
    own = {name: value for name, value in vars(standing).items() if name not in (_MODULE, _BEGINNING)}
    new: nn.Module = object.__new__(type(module))
    vars(new).update({**vars(module), **own, "_forward_pre_hooks": module._forward_pre_hooks})
    return new


def original(module: Any) -> Any:
    """The module that another one stands for; of others, themselves."""
    return vars(module).get(_MODULE, module) if isinstance(module, StandIn) else module


def named_tensors(
    module: nn.Module, kind: Literal["_parameters", "_buffers"], prefix: str = "", seen: Any = None
) -> dict[str, Tensor]:
    """The parameters or buffers of a module, each once: what ``named_parameters`` gives, in less time."""
    # In a trace an identity that is a number would be compiled in.
    tracing = torch.compiler.is_compiling()
    if seen is None:
        seen = [] if tracing else {}
    found: dict[str, Tensor] = {}
    for name, tensor in getattr(module, kind).items():
        if tensor is None or (any(tensor is each for each in seen) if tracing else id(tensor) in seen):
            continue
        if tracing:
            seen.append(tensor)
        else:
            seen[id(tensor)] = tensor
        found[prefix + name] = tensor
    for name, child in module._modules.items():
        if child is not None and _has_tensors(child):
            found.update(named_tensors(child, kind, f"{prefix}{name}.", seen))
    return found


Places = Mapping[tuple[int, str], Tensor]
"""Tensors by the ``id`` of the dictionary in which a module keeps an old one, and its name there."""


def stand_in(module: M, named: Mapping[str, Tensor], places: Places | None = None) -> M:
    """A module that works as this one does with other tensors; nothing of the module is changed.

    Hooks run, with the stand-in. Submodules without tensors are used as they are. Lists, methods and functions in
    attributes that lead to modules or tensors of it lead to the new ones in the stand-in.

    Args:
        module: which.
        named: tensors by the names of the parameters and buffers in whose place they are (of one that stands in several
            places the first).
        places: further ones, by their places.
    """
    if torch.compiler.is_compiling():
        return cast(M, _traced(module, named, "", []))
    return cast(M, _Tree(named, places or {}).root(module))


def called_with(
    module: nn.Module, named: Mapping[str, Tensor], method: str, arguments: tuple[object, ...]
) -> tuple[Any, dict[str, Tensor]]:
    """What a method of a module returns with other tensors in the place of its own, and the buffers it then has."""
    if torch.compiler.is_dynamo_compiling() and not _TRACES_STAND_INS:
        return _exchanged(module, named, method, arguments)
    standing = stand_in(module, named)
    output = called(standing, method)(*arguments)
    _arrive(module, standing)
    return output, named_tensors(standing, "_buffers")


def _exchanged(
    module: nn.Module, named: Mapping[str, Tensor], method: str, arguments: tuple[object, ...]
) -> tuple[Any, dict[str, Tensor]]:
    """The same with the module itself, which has other dictionaries of tensors meanwhile.

    In a trace that is seen by nobody: the program that comes of it sets each module's own dictionaries, which it has.
    """
    kept: list[tuple[nn.Module, Any, Any]] = []
    _exchange(module, named, "", [], kept)
    try:
        output = called(module, method)(*arguments)
        buffers = named_tensors(module, "_buffers")
    finally:
        for each, parameters, own_buffers in kept:
            object.__setattr__(each, "_parameters", parameters)
            object.__setattr__(each, "_buffers", own_buffers)
    return output, buffers


def _arrive(module: nn.Module, standing: nn.Module) -> None:
    """Give a module the attributes that were set in its stand-in, where that could not be done at once: in a trace."""
    if not torch.compiler.is_compiling():
        return
    for name, value in vars(standing).items():
        if name not in ("_parameters", "_buffers", "_modules") and value is not vars(module).get(name):
            setattr(module, name, value)
    for name, child in module._modules.items():
        other = standing._modules[name]
        if child is not None and other is not None and other is not child:
            _arrive(child, other)


def _traced(module: nn.Module, named: Mapping[str, Tensor], prefix: str, made: list[Any]) -> nn.Module:
    """A stand-in that the compiler can trace: a copy of everything, of the class itself."""
    for old, new in made:
        if old is module:
            return new
    standing: nn.Module = object.__new__(type(module))
    made.append((module, standing))
    own = vars(standing)
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers"):
            own[name] = {key: _in_place_of(tensor, prefix + key, named, made) for key, tensor in value.items()}
        elif name == "_modules":
            own[name] = {
                key: _traced(child, named, f"{prefix}{key}.", made)
                if child is not None and _has_tensors(child)
                else child
                for key, child in value.items()
            }
        else:
            own[name] = value
    return standing


def _exchange(
    module: nn.Module, named: Mapping[str, Tensor], prefix: str, made: list[Any], kept: list[tuple[nn.Module, Any, Any]]
) -> None:
    """Give a module and those below it dictionaries with the new tensors; their own are kept in a list."""
    if any(each is module for each, _, _ in kept):
        return
    parameters, buffers = module._parameters, module._buffers
    kept.append((module, parameters, buffers))
    for name, tensors in (("_parameters", parameters), ("_buffers", buffers)):
        new = {key: _in_place_of(tensor, prefix + key, named, made) for key, tensor in tensors.items()}
        object.__setattr__(module, name, new)
    for key, child in module._modules.items():
        if child is not None and _has_tensors(child):
            _exchange(child, named, f"{prefix}{key}.", made, kept)


def _in_place_of(tensor: Tensor | None, name: str, named: Mapping[str, Tensor], made: list[Any]) -> Tensor | None:
    """The new tensor of that name; of a tensor that stands in several places that of its first name."""
    for old, new in made:
        if old is tensor:
            return new
    if name in named:
        made.append((tensor, named[name]))
    return named.get(name, tensor)


def _has_tensors(module: nn.Module) -> bool:
    # Older compilers know lengths of dictionaries, but not their truth.
    return len(module._parameters) > 0 or len(module._buffers) > 0 or len(module._modules) > 0


class _Tree:
    """The stand-ins of a module and of those below it.

    Args:
        named: tensors by the name of those in whose place they are.
        places: by the places of those.
    """

    def __init__(self, named: Mapping[str, Tensor], places: Places) -> None:
        self._named, self._places = named, places
        self._tensors: dict[int, Tensor] = {}
        self._made: dict[int, nn.Module] = {}
        # Exporters hand out a proxy of a submodule for each look at it; their identities are known while they live.
        self._alive: list[nn.Module] = []
        self._leading: list[tuple[nn.Module, str, Any]] = []
        self._moved: dict[int, Any] = {}

    def root(self, module: nn.Module) -> nn.Module:
        """The stand-in of the module above all others."""
        standing = self._stand_in(module, "")
        # Only now is known what stands for what.
        for new, name, value in self._leading:
            moved = self._with_new(value)
            if moved is not value:
                vars(new)[name] = moved
        return standing

    def _stand_in(self, module: nn.Module, prefix: str) -> nn.Module:
        found = self._made.get(id(module))
        if found is not None:
            return found
        kind = _class_of(type(module))
        if kind is None:
            # A compiled module: its function is bound to the module inside.
            return self._stand_in(module.get_submodule("_orig_mod"), f"{prefix}_orig_mod.")
        live, origin = vars(module), original(module)
        further = vars(origin).keys() - kind.skipped
        leading = [each for name in further if type(each := live.get(name, vars(origin)[name])) not in _PLAIN]
        if not leading and not _has_tensors(module):
            return module
        new: nn.Module = object.__new__(kind)
        self._made[id(module)] = new
        self._alive.append(module)
        own = vars(new)
        if kind.copied:
            own.update(live)
        else:
            for name in _USUAL:
                own[name] = live[name]
        own[_MODULE] = origin
        own["_parameters"] = self._new(module._parameters, prefix) if module._parameters else {}
        own["_buffers"] = self._new(module._buffers, prefix) if module._buffers else {}
        own["_modules"] = {
            name: child if child is None else self._stand_in(child, f"{prefix}{name}.")
            for name, child in module._modules.items()
        }
        if leading:
            self._leading += [(new, name, live.get(name, vars(origin)[name])) for name in further]
        if "_compiled_call_impl" in live:
            own["_compiled_call_impl"] = None  # it is bound to the module itself
        if live["_forward_pre_hooks"]:
            hooks = origin._forward_pre_hooks
            own["_forward_pre_hooks"] = OrderedDict([(-2, _begin), *hooks.items(), (-1, _end)])
        return new

    def _new(self, tensors: Mapping[str, Tensor | None], prefix: str) -> dict[str, Tensor | None]:
        found = {}
        for name, old in tensors.items():
            new = self._tensors.get(id(old))
            if new is None and old is not None:
                new = self._named.get(prefix + name, old)
                if self._places:
                    new = self._places.get((id(tensors), name), new)
                self._tensors[id(old)] = new  # it may stand in other places, too
            found[name] = new
        return found

    def _with_new(self, value: Any, inside: bool = False) -> Any:
        """A value that leads to the stand-ins and new tensors; itself, where it leads to no old one."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, nn.Module):
            return self._made.get(id(value), value)
        if isinstance(value, Tensor):
            return self._tensors.get(id(value), value)
        if id(value) in self._moved:
            return self._moved[id(value)]
        self._moved[id(value)] = value  # also while it is looked at, for what leads back to itself
        self._moved[id(value)] = found = self._looked_at(value, kind, inside)
        return found

    def _looked_at(self, value: Any, kind: type, inside: bool) -> Any:
        if kind is list or isinstance(value, tuple):
            parts = [self._with_new(each, inside) for each in value] if len(value) <= _MANY else value
            if all(new is old for new, old in zip(parts, value, strict=True)):
                return value
            return parts if kind is list else kind(*parts) if hasattr(value, "_fields") else kind(parts)
        if isinstance(value, dict):
            if len(value) > _MANY:
                return value
            changed = {key: new for key, old in value.items() if (new := self._with_new(old, inside)) is not old}
            if changed:
                value = copy.copy(value)
                value.update(changed)
            return value
        if kind is types.MethodType:
            owner = self._with_new(value.__self__, inside)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if kind is functools.partial:
            given = (value.func, value.args, value.keywords)
            new = tuple(self._with_new(each, inside) for each in given)
            return value if all(a is b for a, b in zip(new, given, strict=True)) else kind(new[0], *new[1], **new[2])
        if kind is types.FunctionType:
            return self._function(value, inside)
        if kind is weakref.ref:
            target = value()
            new = self._made.get(id(target)) if isinstance(target, nn.Module) else None
            return value if new is None else weakref.ref(new)
        # A helper of the caller's: what it holds itself is looked at, but not what its helpers hold.
        if inside or not hasattr(value, "__dict__") or isinstance(value, (type, types.ModuleType)):
            return value
        held = vars(value)
        changed = {name: new for name, old in held.items() if (new := self._with_new(old, True)) is not old}
        if not changed:
            return value
        other: Any = object.__new__(kind)
        vars(other).update({**held, **changed})
        return other

    def _function(self, function: types.FunctionType, inside: bool) -> types.FunctionType:
        given = (function.__closure__ or (), function.__defaults__, function.__kwdefaults__)
        cells = tuple(self._cell(cell, inside) for cell in given[0])
        defaults, keywords = (self._with_new(each, inside) for each in given[1:])
        if defaults is given[1] and keywords is given[2] and all(a is b for a, b in zip(cells, given[0], strict=True)):
            return function
        made = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells)
        made.__kwdefaults__ = keywords
        vars(made).update(vars(function))
        return made

    def _cell(self, cell: types.CellType, inside: bool) -> types.CellType:
        try:
            old = cell.cell_contents
        except ValueError:  # not bound yet
            return cell
        new = self._with_new(old, inside)
        return cell if new is old else types.CellType(new)


def _class_of(module_class: type) -> Any:
    """The class of stand-ins of modules of a class, made once for it and kept with it; None for compiled modules."""
    if issubclass(module_class, StandIn):
        return module_class
    if _CLASS not in vars(module_class):
        setattr(module_class, _CLASS, _made_class(module_class))
    return vars(module_class)[_CLASS]


def _made_class(module_class: type) -> type | None:
    if issubclass(module_class, torch.jit.ScriptModule):
        raise ConfigurationError(
            f"{module_class.__name__} is compiled by TorchScript, with tensors that no others can stand in for: "
            "give the module itself; in a block, controls that are not blended ('constant') would do, too"
        )
    if module_class.__name__ == "OptimizedModule":
        return None
    names = {
        "__module__": module_class.__module__,
        "__qualname__": module_class.__qualname__,
        "__class__": property(lambda _: module_class),
        # Attributes that lead to no module or tensor: what a class calls constants are numbers and words.
        "skipped": _USUAL | {_MODULE, _BEGINNING, *getattr(module_class, "__constants__", ())},
        # Attributes are copied, which makes them faster to read.
        "copied": module_class.__module__.startswith(_STILL),
    }
    made: type = type(module_class)(module_class.__name__, (StandIn, module_class), names)  # type: ignore[misc]
    return made


def _begin(module: nn.Module, _arguments: Any) -> None:
    vars(module)[_BEGINNING] = True


def _end(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """What pre-hooks compute belongs to this call; arguments that they noted down arrive."""
    own = vars(module)
    own[_BEGINNING] = False
    for name, value in own.items():
        if name not in _USUAL and isinstance(value, Tensor) and any(value is each for each in arguments):
            vars(own[_MODULE])[name] = value
