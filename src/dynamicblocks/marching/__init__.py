"""The loop over a time grid. It knows no method and no layer."""

from dynamicblocks.marching.fixed import FixedMarch, SteppedField

__all__ = ["FixedMarch", "SteppedField"]
