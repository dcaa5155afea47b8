"""What networks do under other discretisations, what their kernels do to images, and whether gradients are right."""

from dynamicblocks.analysis.candidates import Candidate, candidates, halved
from dynamicblocks.analysis.compression import Compression, changed, compress
from dynamicblocks.analysis.drift import drift, drifts
from dynamicblocks.analysis.figure import Panel, draw_manifestations
from dynamicblocks.analysis.gradient_check import CheckedMode, GradientCheck, gradient_check
from dynamicblocks.analysis.operator_figure import draw_fields, draw_operators
from dynamicblocks.analysis.operators import Operators, TwistOperators, network_operators, operators

__all__ = [
    "Candidate",
    "CheckedMode",
    "Compression",
    "GradientCheck",
    "Operators",
    "Panel",
    "TwistOperators",
    "candidates",
    "changed",
    "compress",
    "draw_fields",
    "draw_manifestations",
    "draw_operators",
    "drift",
    "drifts",
    "gradient_check",
    "halved",
    "network_operators",
    "operators",
]
