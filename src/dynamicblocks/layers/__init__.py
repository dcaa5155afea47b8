"""Layer functions: right-hand sides f(y) or f(t, y) that keep the shape of y. Plain modules that know no steps."""

from dynamicblocks.layers.activations import activations
from dynamicblocks.layers.antisymmetric import Antisymmetric
from dynamicblocks.layers.boundary import BOUNDARIES, Conv1d, Conv2d, Conv3d, conv2d_adjoint, conv_adjoint
from dynamicblocks.layers.branch import Branch, PostactDouble, PostactSingle, PreactDouble, PreactSingle, Style
from dynamicblocks.layers.double import Double
from dynamicblocks.layers.factory import LayerFactory, LayerSource, independent_layers
from dynamicblocks.layers.hamiltonian import HamiltonianPair
from dynamicblocks.layers.implicit_operators import (
    Depthwise,
    Diagonal,
    ImplicitOperator,
    Laplacian,
    Pointwise,
    operators,
)
from dynamicblocks.layers.norms import TVNorm, norms
from dynamicblocks.layers.parametrisations import PARAMETRISATIONS
from dynamicblocks.layers.preact_symmetric import PreactSymmetric
from dynamicblocks.layers.protocol import ProjectedLayer, state_width, takes_time
from dynamicblocks.layers.registry import layers
from dynamicblocks.layers.residual_unit import UNITS, ResidualUnit, UnitOrder, unit_order
from dynamicblocks.layers.second_order import SecondOrder
from dynamicblocks.layers.semi_implicit import SemiImplicit
from dynamicblocks.layers.skipinit import SkipInit
from dynamicblocks.layers.spectrum import Spectrum
from dynamicblocks.layers.symmetric import Symmetric
from dynamicblocks.layers.time_channel import TimeChannel, TimedDouble
from dynamicblocks.layers.twist import TwistConv1d, TwistConv2d, TwistConv3d

__all__ = [
    "BOUNDARIES",
    "PARAMETRISATIONS",
    "UNITS",
    "Antisymmetric",
    "Branch",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Depthwise",
    "Diagonal",
    "Double",
    "HamiltonianPair",
    "ImplicitOperator",
    "Laplacian",
    "LayerFactory",
    "LayerSource",
    "Pointwise",
    "PostactDouble",
    "PostactSingle",
    "PreactDouble",
    "PreactSingle",
    "PreactSymmetric",
    "ProjectedLayer",
    "ResidualUnit",
    "SecondOrder",
    "SemiImplicit",
    "SkipInit",
    "Spectrum",
    "Style",
    "Symmetric",
    "TVNorm",
    "TimeChannel",
    "TimedDouble",
    "TwistConv1d",
    "TwistConv2d",
    "TwistConv3d",
    "UnitOrder",
    "activations",
    "conv2d_adjoint",
    "conv_adjoint",
    "independent_layers",
    "layers",
    "norms",
    "operators",
    "state_width",
    "takes_time",
    "unit_order",
]
