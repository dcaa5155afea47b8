"""The structure of a network as plain data, all that a file of weights needs to be read back: blocks and twists."""

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.controls import Basis, Controls, bases
from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.integrators import Integrator, ReversibleRungeKutta, integrators
from dynamicblocks.memory import bytes_of, check_weights
from dynamicblocks.network import named_blocks
from dynamicblocks.options import Kind, Option
from dynamicblocks.surgery import Net, map_blocks
from dynamicblocks.twisting import twist_choices, with_twists

_NUMBERS = Kind(entries=(Kind(scalars=(float,)),))
ENTRIES: Mapping[str, Kind] = {
    "basis": Kind(scalars=(str,)),
    "size": Kind(scalars=(int,)),
    "knots": _NUMBERS,
    "times": _NUMBERS,
    "integrator": Kind(scalars=(str,)),
}
"""What a description says of a block."""

Discretisation = dict[str, dict[str, Any]]
"""For each block, by name: its basis (name, size, knots and options, if it has any), times and integrator."""


def discretisation(net: Net) -> Discretisation:
    """The basis, times and integrator of every block.

    >>> discretisation(DynamicBlock("symmetric(4)", controls=2))[""]["times"]
    [0.0, 1.0, 2.0]
    """
    return {
        name: {
            **_described(block.controls.basis),
            "times": list(block.times.points),
            "integrator": _written(block.integrator),
        }
        for name, block in named_blocks(net).items()
    }


def _written(integrator: Integrator) -> str:
    """The shorthand of an integrator, or a ConfigurationError for one that it would not lead back to."""
    # What is made reversible must have a name itself.
    named = integrator.method if isinstance(integrator, ReversibleRungeKutta) else integrator
    name = named.shorthand.partition("(")[0]
    if name not in integrators:
        raise ConfigurationError(
            f"the integrator {named.shorthand!r} has no name by which a file could be read back; register it: "
            f"dynamicblocks.integrators.integrators.register({name!r})(...)"
        )
    return integrator.shorthand


def with_discretisation(net: Net, described: Discretisation) -> Net:
    """A copy of ``net`` whose blocks have the basis, times and integrator described, ready for ``load_state_dict``.

    Weights are copies of the present ones, meant to be replaced.

    Raises:
        ConfigurationError: the blocks described are not those of the network.
    """

    def change(name: str, block: DynamicBlock) -> DynamicBlock:
        if name not in described:
            raise _mismatch(net, described)
        choice = described[name]
        basis = _basis(name, choice)
        controls = block.controls
        if basis != controls.basis:
            weights = basis.count * bytes_of(controls.layers[0])
            check_weights(weights, f"block {name!r}, described with {basis.count:,} controls")
            controls = Controls(_copies(controls, basis.count), basis)
        return block.replaced(controls=controls, times=choice["times"], integrator=choice["integrator"])

    check_discretisation(described)
    other = map_blocks(net, change)
    # Compared afterwards: a block with more controls has more of the blocks inside its layers.
    if named_blocks(other).keys() != described.keys():
        raise _mismatch(other, described)
    return other


def check_discretisation(described: Any) -> None:
    """Raise unless each block is described by the entries that belong to it: they may come from a damaged file.

    Raises:
        ConfigurationError: it names the block and the entry.
    """
    if not isinstance(described, Mapping):
        raise ConfigurationError(f"blocks are described by name, got {brief(described)}")
    for name, choice in described.items():
        if not isinstance(choice, Mapping):
            raise ConfigurationError(f"block {name!r} must be described by {', '.join(ENTRIES)}, got {brief(choice)}")
        for entry, kind in ENTRIES.items():
            if entry not in choice:
                raise ConfigurationError(f"block {name!r} is described without its {entry}")
            Option(entry, kind).take(choice[entry], f"{entry} of block {name!r}")
        options = choice.get("options", {})
        if not isinstance(options, Mapping):
            raise ConfigurationError(f"options of the basis of block {name!r} must have names, got {brief(options)}")


def _basis(name: str, choice: Mapping[str, Any]) -> Basis:
    try:
        return bases[choice["basis"]](size=choice["size"], knots=tuple(choice["knots"]), **choice.get("options", {}))
    except TypeError as error:
        raise ConfigurationError(f"the basis of block {name!r} cannot be made as described: {error}") from error


def _described(basis: Basis) -> dict[str, Any]:
    """Name, size, knots and, of a class that has other fields, those."""
    if basis.name not in bases:
        raise ConfigurationError(
            f"a file of weights names its basis of controls, but there is none registered as {basis.name!r}; put "
            f"@bases.register({basis.name!r}) from dynamicblocks.controls over {type(basis).__name__}"
        )
    own = {each.name: getattr(basis, each.name) for each in fields(basis) if each.init}
    known = {"basis": basis.name, "size": own.pop("size"), "knots": list(basis.points)}
    del own["knots"]
    return {**known, "options": own} if own else known


def _mismatch(net: nn.Module, described: Discretisation) -> ConfigurationError:
    return ConfigurationError(
        f"the network has the blocks {list(named_blocks(net))}, but {sorted(described)} are described; build the "
        "network as it was when it was described"
    )


def _copies(controls: Controls, count: int) -> list[nn.Module]:
    return [copy.deepcopy(controls.layers[0]) for _ in range(count)]


Structure = dict[str, dict[str, Any]]
"""The discretisation of every block, and the twist of every twisted convolution."""


def structure(net: nn.Module) -> Structure:
    """How the blocks of a network are discretised and which convolutions are twisted."""
    return {"discretisation": discretisation(net), "twists": twist_choices(net)}


def with_structure(net: Net, described: Mapping[str, dict[str, Any]]) -> Net:
    """A copy of ``net`` of the structure described, ready for ``load_state_dict``.

    Raises:
        ConfigurationError: blocks or convolutions described are not those of the network.
    """
    if not isinstance(described, Mapping) or "discretisation" not in described:
        raise ConfigurationError(f"a network is described by its discretisation and twists, got {brief(described)}")
    # Blocks first: their controls are counted by their bases, and twists are named by control.
    return with_twists(with_discretisation(net, described["discretisation"]), described.get("twists", {}))
