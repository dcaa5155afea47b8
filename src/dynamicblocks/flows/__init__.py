"""Continuous normalizing flows: fields, transforms, flows, and what they are trained by."""

from dynamicblocks.flows.base import Base, bases, make_base
from dynamicblocks.flows.continuous import ContinuousTransform
from dynamicblocks.flows.distance import path_energy, wasserstein2
from dynamicblocks.flows.distribution import FlowDistribution
from dynamicblocks.flows.fields import (
    Concat,
    ConcatSquash,
    FieldMaker,
    Hyper,
    PotentialField,
    as_field,
    fields,
    make_field,
)
from dynamicblocks.flows.flow import Flow
from dynamicblocks.flows.make import make_flow
from dynamicblocks.flows.objectives import FlowMatching, negative_log_likelihood
from dynamicblocks.flows.pairing import pairs
from dynamicblocks.flows.trace import Exact, Hutchinson, as_trace
from dynamicblocks.flows.transform import Compose, Standardise, Transform, Transformed

__all__ = [
    "Base",
    "Compose",
    "Concat",
    "ConcatSquash",
    "ContinuousTransform",
    "Exact",
    "FieldMaker",
    "Flow",
    "FlowDistribution",
    "FlowMatching",
    "Hutchinson",
    "Hyper",
    "PotentialField",
    "Standardise",
    "Transform",
    "Transformed",
    "as_field",
    "as_trace",
    "bases",
    "fields",
    "make_base",
    "make_field",
    "make_flow",
    "negative_log_likelihood",
    "pairs",
    "path_energy",
    "wasserstein2",
]
