"""The form of a network as plain data: all that a file of weights needs, beside its configuration, to be read back."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dynamicblocks.discretisation import discretisation, with_discretisation
from dynamicblocks.surgery import Net
from dynamicblocks.twisting import twist_choices, with_twists

Form = dict[str, dict[str, Any]]
"""The discretisation of every block, and the twist of every twisted convolution."""


def form(net: nn.Module) -> Form:
    """How the blocks of a network are discretised and which convolutions are twisted."""
    return {"discretisation": discretisation(net), "twists": twist_choices(net)}


def in_form(net: Net, described: Mapping[str, dict[str, Any]]) -> Net:
    """A copy of ``net`` in the form described, ready for ``load_state_dict``.

    Raises:
        ConfigurationError: blocks or convolutions described are not those of the network.
    """
    # Blocks first: their controls are counted by their bases, and twists are named by control.
    return with_twists(with_discretisation(net, described["discretisation"]), described.get("twists", {}))
