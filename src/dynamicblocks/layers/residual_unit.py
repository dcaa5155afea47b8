"""The residual units that the literature compares, as data."""

from typing import NamedTuple

from torch import Tensor

from dynamicblocks.errors import unknown_name
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.branch import Branch, Style
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.layers.protocol import ProjectedLayer
from dynamicblocks.times import check_count


class UnitOrder(NamedTuple):
    """Where a residual unit normalises and activates: in the branch, on the sum, before the head."""

    branch: str
    projection: str
    opening: str
    head: str


UNITS: dict[str, UnitOrder] = {
    "a": UnitOrder("conv norm act conv norm", "act", "conv norm act", ""),
    "b": UnitOrder("conv norm act conv", "norm act", "conv norm act", ""),
    "c": UnitOrder("conv norm act conv norm act", "", "conv norm act", ""),
    "d": UnitOrder("act conv norm act conv norm", "", "conv norm", "act"),
    "e": UnitOrder("norm act conv norm act conv", "", "conv", "norm act"),
    "post": UnitOrder("conv act norm conv act norm", "", "conv norm act", ""),
    "bottleneck_a": UnitOrder("reduce norm act conv norm act expand norm", "act", "conv norm act", ""),
    "bottleneck_e": UnitOrder("norm act reduce norm act conv norm act expand", "", "conv", "norm act"),
}


def unit_order(unit: str, skipinit: bool = False) -> UnitOrder:
    """The order of the unit of that name, or an error that lists the names."""
    if not isinstance(unit, str) or unit not in UNITS:
        raise unknown_name("residual unit", unit, UNITS)
    order = UNITS[unit]
    return order._replace(branch=f"{order.branch} scale") if skipinit else order


class ResidualUnit(ProjectedLayer):
    """One of the residual units of He et al. 2016 (arXiv:1603.05027), or ``post`` (Queiruga et al. 2020).

    ============  =============================================  =============
    unit          branch F                                       on the sum
    ============  =============================================  =============
    a             conv norm act conv norm                        act
    b             conv norm act conv                             norm act
    c             conv norm act conv norm act                    nothing
    d             act conv norm act conv norm                    nothing
    e             norm act conv norm act conv                    nothing
    post          conv act norm conv act norm                    nothing
    bottleneck_a  reduce norm act conv norm act expand norm      act
    bottleneck_e  norm act reduce norm act conv norm act expand  nothing
    ============  =============================================  =============

    A bottleneck convolves a quarter of the channels, between 1x1 convolutions. The layer function is F alone; what
    acts on the sum is the layer's projection. ``skipinit`` puts a trainable scalar, zero at first, at the end of the
    branch. ``dims`` is 1 for signals, 2 for images, 3 for volumes.

    >>> ResidualUnit(8, "a").projection
    Branch(
      (act1): ReLU()
    )
    """

    def __init__(
        self,
        width: int,
        unit: str = "e",
        *,
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        skipinit: bool = False,
        dims: int = 2,
    ) -> None:
        order = unit_order(unit, skipinit)
        check_count(width, "width")
        style = Style(norm=norm, activation=activation, boundary=boundary, bias=bias, dims=check_dims(dims))
        super().__init__(Branch(order.projection, width, width, **style) if order.projection else None)
        self.dims, self.width = dims, width
        self.branch = Branch(order.branch, width, width, **style)

    def forward(self, y: Tensor) -> Tensor:
        return self.branch(y)
