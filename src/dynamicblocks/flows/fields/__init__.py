"""Right-hand sides of flows: what moves samples from the base to the data."""

from collections.abc import Sequence

from torch import nn

from dynamicblocks.flows.fields.condition import Condition, TimeName
from dynamicblocks.flows.fields.dense import Concat, ConcatSquash
from dynamicblocks.flows.fields.field import (
    ClosedForm,
    FieldMaker,
    ForwardMode,
    OwnField,
    Potential,
    as_field,
    context_width,
    fields,
)
from dynamicblocks.flows.fields.hyper import Hyper
from dynamicblocks.flows.fields.potential import PotentialField

__all__ = [
    "ClosedForm",
    "Concat",
    "ConcatSquash",
    "Condition",
    "FieldMaker",
    "ForwardMode",
    "Hyper",
    "OwnField",
    "Potential",
    "PotentialField",
    "TimeName",
    "as_field",
    "context_width",
    "fields",
    "make_field",
]


def make_field(
    name: str,
    features: int,
    *,
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "tanh",
    context: int = 0,
    horizon: float = 1.0,
    time: TimeName = "linear",
) -> nn.Module:
    """The field of that name for points of so many features: concat, concatsquash, hyper, potential.

    Raises:
        ConfigurationError: there is none, or an option does not suit it.

    >>> make_field("concatsquash", 2, context=3).context_width
    3
    """
    options = {"hidden": tuple(hidden), "activation": activation, "context": context, "horizon": horizon, "time": time}
    return fields[name](features, **options)
