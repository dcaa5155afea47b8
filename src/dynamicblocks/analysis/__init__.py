"""What networks do under other discretisations, what their kernels do to images, and whether gradients are right."""

from typing import TYPE_CHECKING

from dynamicblocks.analysis.candidates import Candidate, candidates, halved
from dynamicblocks.analysis.gradient_check import CheckedMode, GradientCheck, gradient_check
from dynamicblocks.analysis.operators import Operators, TwistOperators, network_operators, operators
from dynamicblocks.analysis.stability import StepLimit, step_limit
from dynamicblocks.analysis.way_back import drift, drifts
from dynamicblocks.lazy import lazy_names

__all__ = [
    "Candidate",
    "CheckedMode",
    "Compression",
    "GradientCheck",
    "Operators",
    "Panel",
    "StepLimit",
    "Swept",
    "TwistOperators",
    "candidates",
    "changed",
    "compress",
    "draw_fields",
    "draw_manifestations",
    "draw_operators",
    "draw_tolerances",
    "drift",
    "drifts",
    "gradient_check",
    "halved",
    "network_operators",
    "operators",
    "step_limit",
]

# These bring training and plots with them, which take longer to import than all the rest.
if TYPE_CHECKING:
    from dynamicblocks.analysis.compression import Compression, changed, compress
    from dynamicblocks.analysis.figure import Panel, draw_manifestations
    from dynamicblocks.analysis.operator_figure import draw_fields, draw_operators
    from dynamicblocks.analysis.tolerance_figure import Swept, draw_tolerances
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "compression": "Compression changed compress",
            "figure": "Panel draw_manifestations",
            "operator_figure": "draw_fields draw_operators",
            "tolerance_figure": "Swept draw_tolerances",
        },
    )
