"""What networks do under other discretisations (convergence tests, compression), and whether gradients are right."""

from dynamicblocks.analysis.candidates import Candidate, candidates, halved
from dynamicblocks.analysis.compression import Compression, changed, compress
from dynamicblocks.analysis.figure import Panel, draw_manifestations
from dynamicblocks.analysis.gradients import CheckedMode, GradientCheck, gradient_check

__all__ = [
    "Candidate",
    "CheckedMode",
    "Compression",
    "GradientCheck",
    "Panel",
    "candidates",
    "changed",
    "compress",
    "draw_manifestations",
    "gradient_check",
    "halved",
]
