"""What trained networks do under other discretisations: convergence tests and compression."""

from dynamicblocks.analysis.candidates import Candidate, candidates, halved
from dynamicblocks.analysis.compression import Compression, changed, compress
from dynamicblocks.analysis.figure import Panel, draw_manifestations

__all__ = ["Candidate", "Compression", "Panel", "candidates", "changed", "compress", "draw_manifestations", "halved"]
