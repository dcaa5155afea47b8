"""Twists turned on and off, and described as plain data."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.layers.parametrisations import check_twist
from dynamicblocks.layers.twist import TwistConv, twisted
from dynamicblocks.twisting.exchange import Net, check_controls, exchanged
from dynamicblocks.twisting.places import Convolution, Where, convertible, convolutions, everywhere, meant

SIDE = 3


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

    A ``Conv1d`` with kernels of 3 becomes a :class:`~dynamicblocks.layers.TwistConv1d`, and a ``Conv3d`` with 3x3x3 a
    :class:`~dynamicblocks.layers.TwistConv3d`.

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
    >>> len(db.twists(twisted).twisted), twisted.num_weights - net.num_weights
    (12, 64512)
    """
    check_twist(parametrisation, degree, (SIDE, SIDE))
    chosen = meant(net, where, stages)
    found = {name: module for name, module in convolutions(net) if convertible(module)}
    small = {name: module for name, module in found.items() if set(module.kernel_size) == {SIDE}}
    names = everywhere(small, {name for name, module in small.items() if chosen(name, module)})
    if not names:
        raise ConfigurationError(_nothing("twist", net, where, stages, "plain 3x3 convolution", found))
    check_controls(net, names)
    return exchanged(net, names, partial(_twisted, parametrisation, degree), inplace)


def untwist(net: Net, where: Where | None = None, *, stages: str | None = None, inplace: bool = False) -> Net:
    """The network with plain convolutions in the place of twisted ones; what their twists had learnt is lost.

    Args:
        net, where, stages, inplace: see :func:`twist`.

    Raises:
        ConfigurationError: no convolution that is meant is twisted.

    >>> import dynamicblocks as db
    >>> db.untwist(db.twist(nn.Conv2d(3, 8, 3)))
    Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    chosen = meant(net, where, stages)
    found = {name: module for name, module in convolutions(net) if isinstance(module, TwistConv)}
    names = everywhere(found, {name for name, module in found.items() if chosen(name, module)})
    if not names:
        raise ConfigurationError(_nothing("untwist", net, where, stages, "twisted convolution", found))
    check_controls(net, names)
    return exchanged(net, names, _untwisted, inplace)


def _nothing(
    what: str, net: nn.Module, where: Where | None, stages: str | None, kind: str, found: Mapping[str, Convolution]
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
    found = ((name, module) for name, module in convolutions(net) if isinstance(module, TwistConv))
    return {name: {"parametrisation": module.parametrisation, "degree": module.degree} for name, module in found}


def with_twists(net: Net, described: Mapping[str, Mapping[str, Any]]) -> Net:
    """A copy of ``net`` that is twisted as described by :func:`twist_choices`; twists that it had stay if they agree.

    Raises:
        ConfigurationError: a name is none of a convolution that can be twisted.
    """
    found = dict(convolutions(net))
    if not isinstance(described, Mapping):
        raise ConfigurationError(f"twists are described by name, got {brief(described)}")
    for name, choice in described.items():
        if name not in found or not (convertible(found[name]) or isinstance(found[name], TwistConv)):
            raise ConfigurationError(f"{type(net).__name__} has no convolution {name!r} that could be twisted")
        if not isinstance(choice, Mapping) or choice.keys() != {"parametrisation", "degree"}:
            raise ConfigurationError(f"a twist has a parametrisation and a degree, got {brief(choice)} of {name!r}")
        check_twist(choice["parametrisation"], choice["degree"], found[name].kernel_size)
    present = twist_choices(net)
    other = copy.deepcopy(net)
    superfluous = {name for name in present if present[name] != described.get(name)}
    if superfluous:
        other = exchanged(other, superfluous, _untwisted, True)
    missing: dict[tuple[str, int], set[str]] = {}
    for name, choice in described.items():
        if present.get(name) != choice:
            missing.setdefault((choice["parametrisation"], choice["degree"]), set()).add(name)
    for chosen, names in missing.items():
        other = exchanged(other, names, partial(_twisted, *chosen), True)
    return other


def _twisted(parametrisation: str, degree: int, plain: Convolution) -> nn.Module:
    return twisted(plain, parametrisation, degree)


def _untwisted(module: TwistConv) -> nn.Module:
    return module.plain()
