"""Convolutions with variable coefficients in any network: turned on, listed, turned off."""

from dynamicblocks.twisting.changes import twist, twist_choices, untwist, with_twists
from dynamicblocks.twisting.listing import Convolution, Twists, twists
from dynamicblocks.twisting.places import Where, stages_of

__all__ = [
    "Convolution",
    "Twists",
    "Where",
    "stages_of",
    "twist",
    "twist_choices",
    "twists",
    "untwist",
    "with_twists",
]
