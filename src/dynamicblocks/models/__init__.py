"""Named networks."""

from dynamicblocks.models.continuousnet import continuousnet
from dynamicblocks.models.dynamicnet import dynamicnet
from dynamicblocks.models.imexnet import imexnet
from dynamicblocks.models.lm_resnet import MultistepStage, lm_resnet
from dynamicblocks.models.registry import create_model, list_models, model_options, models
from dynamicblocks.models.resnet import resnet, wide_resnet
from dynamicblocks.models.twist_resnet import twist_resnet

__all__ = [
    "MultistepStage",
    "continuousnet",
    "create_model",
    "dynamicnet",
    "imexnet",
    "list_models",
    "lm_resnet",
    "model_options",
    "models",
    "resnet",
    "twist_resnet",
    "wide_resnet",
]
