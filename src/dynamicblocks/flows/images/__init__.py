"""Flows of images: dequantisation, scales, and the flow in one call."""

from dynamicblocks.flows.images.dequantise import Dequantise, bits_per_dim
from dynamicblocks.flows.images.make import make_image_flow
from dynamicblocks.flows.images.marginals import Marginals
from dynamicblocks.flows.images.multiscale import Multiscale, OnHalf, most_scales
from dynamicblocks.flows.images.squeeze import Squeeze, Unsqueeze

__all__ = [
    "Dequantise",
    "Marginals",
    "Multiscale",
    "OnHalf",
    "Squeeze",
    "Unsqueeze",
    "bits_per_dim",
    "make_image_flow",
    "most_scales",
]
