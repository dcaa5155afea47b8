"""Named networks."""

from dynamicblocks.models.continuousnet import continuousnet
from dynamicblocks.models.dense import DenseNet, dense
from dynamicblocks.models.dynamicnet import dynamicnet
from dynamicblocks.models.imexnet import imexnet
from dynamicblocks.models.lm_resnet import MultistepStage, lm_resnet
from dynamicblocks.models.odenet import odenet, odenet_resnet
from dynamicblocks.models.pde_cnn import pde_cnn
from dynamicblocks.models.registry import create_model, described_options, list_models, model_options, models
from dynamicblocks.models.resnet import resnet, wide_resnet
from dynamicblocks.models.reversible_resnet import hamiltonian_resnet, two_step_resnet
from dynamicblocks.models.twist_resnet import twist_resnet

__all__ = [
    "DenseNet",
    "MultistepStage",
    "continuousnet",
    "create_model",
    "dense",
    "described_options",
    "dynamicnet",
    "hamiltonian_resnet",
    "imexnet",
    "list_models",
    "lm_resnet",
    "model_options",
    "models",
    "odenet",
    "odenet_resnet",
    "pde_cnn",
    "resnet",
    "twist_resnet",
    "two_step_resnet",
    "wide_resnet",
]
