"""Convolutions with variable coefficients in any network: turned on, listed, turned off."""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.controls import Controls
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers import Conv2d, TwistConv2d
from dynamicblocks.layers.twist import check_twist
from dynamicblocks.network import DynamicNet

Net = TypeVar("Net", bound=nn.Module)
Where = str | Sequence[str] | type[nn.Module] | Callable[[str, nn.Conv2d], bool]

# Subclasses may compute something else in their forward; these two do not.
PLAIN = (nn.Conv2d, Conv2d)
KERNEL_SIZE = (3, 3)
# How torchvision, timm and transformers name the stages of a backbone.
STAGE_NAMES = re.compile(r"(?:.*\.)?(?:layer|stage)_?\d+|(?:.*\.)?(?:layers|stages|blocks)\.\d+")


def twist(
    net: Net,
    where: Where | None = None,
    *,
    stages: str | None = None,
    parametrisation: str = "vector",
    degree: int = 1,
    inplace: bool = False,
) -> Net:
    """The same function, its 3x3 convolutions ready to learn coefficients that vary over the image.

    Each becomes a :class:`~dynamicblocks.layers.TwistConv2d` with the same weight, bias, hooks and modes, and a twist
    of zero. Any model will do: torchvision's, timm's, transformers', one of your own, a dynamic block (a differential
    equation whose coefficients then vary in space *and* time). ``print(db.twists(net))`` lists what was changed.

    Args:
        net: a network, block or layer.
        where: which of them: a pattern of module names such as ``"layer[12].*"`` or several, a class of modules whose
            convolutions are meant (``BasicBlock``), or a function of name and convolution. All by default.
        stages: a letter for each stage of the network, T or F: ``"TTTF"`` leaves the last one plain. Stages are the
            dynamic blocks, each with what stands before it; elsewhere the modules named as ``layer1`` or ``stages.0``.
        parametrisation: ``vector``, ``independent`` or ``full``.
        degree: of the coefficients, 1 or 2.
        inplace: change ``net`` itself; an optimiser made before does not know the new weights.

    Raises:
        ConfigurationError: nothing is there to be twisted (the message says what is), or some but not all controls of
            a block are meant. The network is left as it was.

    >>> import dynamicblocks as db
    >>> net = db.create_model("resnet20")
    >>> twisted = db.twist(net, stages="TTF")
    >>> len(db.twists(twisted).twisted), twisted.weights - net.weights
    (12, 64512)
    """
    check_twist(parametrisation, degree, KERNEL_SIZE)
    chosen = _meant(net, where, stages)
    found = {name: module for name, module in _convolutions(net) if _convertible(module)}
    small = {name: module for name, module in found.items() if module.kernel_size == KERNEL_SIZE}
    names = _everywhere(small, {name for name, module in small.items() if chosen(name, module)})
    if not names:
        raise ConfigurationError(_nothing("twist", net, where, stages, "plain 3x3 convolution", found))
    _check_controls(net, names)
    return _replaced(net, names, partial(_twisted, parametrisation, degree), inplace)


def untwist(net: Net, where: Where | None = None, *, stages: str | None = None, inplace: bool = False) -> Net:
    """The network with plain convolutions in the place of twisted ones; what their twists had learnt is lost.

    Args:
        net, where, stages, inplace: see :func:`twist`.

    Raises:
        ConfigurationError: no convolution that is meant is twisted.

    >>> import dynamicblocks as db
    >>> db.untwist(db.twist(torch.nn.Conv2d(3, 8, 3)))
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    chosen = _meant(net, where, stages)
    found = {name: module for name, module in _convolutions(net) if isinstance(module, TwistConv2d)}
    names = _everywhere(found, {name for name, module in found.items() if chosen(name, module)})
    if not names:
        raise ConfigurationError(_nothing("untwist", net, where, stages, "twisted convolution", found))
    _check_controls(net, names)
    return _replaced(net, names, _untwisted, inplace)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network.

    Args:
        name: of the module.
        shape: of its kernel.
        twist: parametrisation and degree, or "" of a plain one.
        weights: of kernel and bias.
        twist_weights: of the twist.
        strength: norm of the twist's kernels relative to that of the plain one.
        note: why it cannot be twisted, if so.
    """

    name: str
    shape: tuple[int, ...]
    twist: str
    weights: int
    twist_weights: int
    strength: float
    note: str


@dataclass(frozen=True)
class Twists:
    """The convolutions of a network; printed, a table."""

    convolutions: tuple[Convolution, ...]

    @property
    def twisted(self) -> tuple[Convolution, ...]:
        """Those with a twist."""
        return tuple(each for each in self.convolutions if each.twist)

    @property
    def weights(self) -> int:
        """Weights of all twists."""
        return sum(each.twist_weights for each in self.convolutions)

    def __str__(self) -> str:
        rows = [("convolution", "kernel", "twist", "weights", "of the twist", "strength")]
        for each in self.convolutions:
            kernel = " x ".join(map(str, each.shape))
            twist = each.twist or (f"plain ({each.note})" if each.note else "plain")
            strength = f"{each.strength:.3f}" if each.twist else ""
            of_twist = f"{each.twist_weights:,}" if each.twist else ""
            rows.append((each.name or "(itself)", kernel, twist, f"{each.weights:,}", of_twist, strength))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        total = (
            f"{len(self.twisted)} of {len(self.convolutions)} convolutions twisted, {self.weights:,} weights of twists"
        )
        return "\n".join([*lines, total])


def twists(net: nn.Module) -> Twists:
    """Every convolution of a network, twisted or not; one that is used at several places by its first name.

    >>> import dynamicblocks as db
    >>> print(db.twists(db.twist(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 1)))))
    convolution  kernel         twist   weights  of the twist  strength
    0            8 x 3 x 3 x 3  vector  224      216           0.000
    1            8 x 8 x 1 x 1  plain   72
    1 of 2 convolutions twisted, 216 weights of twists
    """
    found = ((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return Twists(tuple(_describe(name, module) for name, module in found))


def _describe(name: str, module: nn.Conv2d) -> Convolution:
    own = sum(weight.numel() for weight in module.parameters())
    shape = tuple(module.weight.shape)
    if not isinstance(module, TwistConv2d):
        note = "" if _convertible(module) else f"{type(module).__name__} has a forward of its own"
        return Convolution(name, shape, "", own, 0, 0.0, note)
    added = module.twist.numel()
    with torch.no_grad():
        size = torch.stack([kernel.norm() for kernel in module.twist_kernels()]).norm()
        strength = float(size / module.weight.norm().clamp_min(torch.finfo(module.weight.dtype).tiny))
    kind = module.parametrisation if module.degree == 1 else f"{module.parametrisation}, degree {module.degree}"
    return Convolution(name, shape, kind, own - added, added, strength, "")


def stages_of(net: nn.Module) -> list[list[str]]:
    """The stages of a network, each the names of its top modules.

    >>> import dynamicblocks as db
    >>> stages_of(db.create_model("continuousnet"))
    [['body.0', 'body.1'], ['body.2', 'body.3'], ['body.4', 'body.5']]
    """
    for prefix, module in net.named_modules():
        if isinstance(module, DynamicNet):
            return _stages_of_blocks(module, f"{prefix}." if prefix else "")
    names = [name for name, module in net.named_modules() if STAGE_NAMES.fullmatch(name) and any(_convolutions(module))]
    depths: dict[tuple[str, int], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        depths.setdefault((parent if last.isdecimal() else f"{parent}|", name.count(".")), []).append(name)
    # The first group from the outside that has several members: stages may hold layers of the same kind of name.
    groups = sorted((group for group in depths.values() if len(group) > 1), key=lambda group: group[0].count("."))
    return [[name] for name in groups[0]] if groups else []


def _stages_of_blocks(net: DynamicNet, prefix: str) -> list[list[str]]:
    stages: list[list[str]] = [[]]
    for index, module in enumerate(net.body):
        stages[-1].append(f"{prefix}body.{index}")
        if isinstance(module, DynamicBlock):
            stages.append([])
    rest = stages.pop()
    if rest:
        stages[-1:] = [[*(stages[-1] if stages else []), *rest]]
    return stages


def _meant(net: nn.Module, where: Where | None, stages: str | None) -> Callable[[str, nn.Conv2d], bool]:
    """Which convolutions the caller means."""
    by_place = _by_place(net, where)
    if stages is None:
        return by_place
    known = stages_of(net)
    if len(stages) != len(known) or set(stages) - set("TF"):
        listed = ", ".join("+".join(stage) for stage in known) or "none that its names tell; use where="
        raise ConfigurationError(
            f"stages must have a letter T or F for each of the {len(known)} stages of {type(net).__name__} "
            f"({listed}), got {stages!r}"
        )
    tops = tuple(f"{name}." for stage, letter in zip(known, stages, strict=True) if letter == "T" for name in stage)
    return lambda name, module: f"{name}.".startswith(tops) and by_place(name, module)


def _by_place(net: nn.Module, where: Where | None) -> Callable[[str, nn.Conv2d], bool]:
    if where is None:
        return lambda name, module: True
    if isinstance(where, type) and issubclass(where, nn.Module):
        tops = [name for name, module in net.named_modules() if isinstance(module, where)]
        return lambda name, module: any(top in ("", name) or name.startswith(f"{top}.") for top in tops)
    if isinstance(where, str) or (isinstance(where, Sequence) and all(isinstance(each, str) for each in where)):
        patterns = [where] if isinstance(where, str) else list(where)
        return lambda name, module: any(fnmatchcase(name, pattern) for pattern in patterns)
    if callable(where) and not isinstance(where, type):
        return where
    raise ConfigurationError(
        f"where must be a pattern of names, several, a class of modules or a function of name and module, got {where!r}"
    )


def _convolutions(net: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Every convolution by name; one that is used at several places comes under each of its names."""
    for name, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Conv2d):
            yield name, module


def _everywhere(found: Mapping[str, nn.Conv2d], names: set[str]) -> set[str]:
    """All names of the convolutions meant by some: one that is used at several places stays one."""
    meant = {id(found[name]) for name in names}
    return {name for name, module in found.items() if id(module) in meant}


def _convertible(module: nn.Module) -> bool:
    return type(module) in PLAIN


def _check_controls(net: nn.Module, names: set[str]) -> None:
    """All controls of a block must stay of one form, for they are blended, refined and projected together."""
    for name, module in net.named_modules():
        if not isinstance(module, Controls):
            continue
        tops = [f"{name}.layers.{index}" if name else f"layers.{index}" for index in range(len(module))]
        inside = [{n.removeprefix(top) for n in names if f"{n}.".startswith(f"{top}.")} for top in tops]
        for index, other in enumerate(inside):
            if other != inside[0]:
                raise ConfigurationError(
                    f"all controls of a block are layers of one form, but {tops[0]} and {tops[index]} would differ in "
                    f"{', '.join(sorted(n.lstrip('.') or 'the layer itself' for n in inside[0] ^ other))}; choose the "
                    "same convolutions in each"
                )


def _replaced(net: Net, names: Iterable[str], change: Callable[[nn.Conv2d], nn.Conv2d], inplace: bool) -> Net:
    other = net if inplace else copy.deepcopy(net)
    made: dict[int, nn.Conv2d] = {}
    # All are looked up before the first is replaced: a module around them may be used at several places too.
    for name, old in [(name, other.get_submodule(name)) for name in sorted(names)]:
        assert isinstance(old, nn.Conv2d)
        new = made.setdefault(id(old), change(old))
        if name == "":
            if inplace:
                raise ConfigurationError(
                    f"a {type(net).__name__} cannot become another module in place; use inplace=False"
                )
            return new  # type: ignore[return-value]
        parent, _, child = name.rpartition(".")
        setattr(other.get_submodule(parent), child, new)
    return other


def _nothing(
    what: str, net: nn.Module, where: Where | None, stages: str | None, kind: str, found: Mapping[str, nn.Conv2d]
) -> str:
    choice = ", ".join(f"{key}={value!r}" for key, value in (("where", where), ("stages", stages)) if value is not None)
    have = ", ".join(list(found)[:8]) + (", ..." if len(found) > 8 else "")
    listed = f"it has {have}" if found else "it has none that this package knows how to convert"
    return (
        f"there is nothing to {what} in {type(net).__name__}: no {kind}{f' is meant by {choice}' if choice else ''}; "
        f"{listed}. print(dynamicblocks.twists(net)) lists them all"
    )


def twist_choices(net: nn.Module) -> dict[str, dict[str, Any]]:
    """Parametrisation and degree of every twisted convolution, by name, as plain data."""
    found = ((name, module) for name, module in _convolutions(net) if isinstance(module, TwistConv2d))
    return {name: {"parametrisation": module.parametrisation, "degree": module.degree} for name, module in found}


def with_twists(net: Net, described: Mapping[str, Mapping[str, Any]]) -> Net:
    """A copy of ``net`` that is twisted as described by :func:`twist_choices`; twists that it had stay if they agree.

    Raises:
        ConfigurationError: a name is none of a convolution that can be twisted.
    """
    found = dict(_convolutions(net))
    for name in described:
        if name not in found or not (_convertible(found[name]) or isinstance(found[name], TwistConv2d)):
            raise ConfigurationError(f"{type(net).__name__} has no convolution {name!r} that could be twisted")
    present = twist_choices(net)
    other = copy.deepcopy(net)
    superfluous = {name for name in present if present[name] != described.get(name)}
    if superfluous:
        other = _replaced(other, superfluous, _untwisted, True)
    missing: dict[tuple[str, int], set[str]] = {}
    for name, choice in described.items():
        if present.get(name) != choice:
            missing.setdefault((choice["parametrisation"], choice["degree"]), set()).add(name)
    for chosen, names in missing.items():
        other = _replaced(other, names, partial(_twisted, *chosen), True)
    return other


def _twisted(parametrisation: str, degree: int, plain: nn.Conv2d) -> TwistConv2d:
    return TwistConv2d.of(plain, parametrisation, degree)


def _untwisted(twisted: nn.Conv2d) -> nn.Conv2d:
    assert isinstance(twisted, TwistConv2d)
    return twisted.plain()
