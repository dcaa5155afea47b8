"""Named networks."""

from dynamicblocks.models.dynamicnet import dynamicnet
from dynamicblocks.models.registry import create_model, list_models, model_options, models
from dynamicblocks.models.resnet import resnet

__all__ = ["create_model", "dynamicnet", "list_models", "model_options", "models", "resnet"]
