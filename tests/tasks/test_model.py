"""Configurations of models: a name and options."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.models import DenseNet, described_options, list_models, model_options, models
from dynamicblocks.structure import structure
from dynamicblocks.tasks import ModelConfig
from dynamicblocks.tasks.model import BY_THE_TASK


@pytest.fixture
def registered():
    """A name under which a model can be registered for one test."""
    before = dict(models._factories)
    yield models.register("mine")
    models._factories.clear()
    models._factories.update(before)


def test_it_is_a_value():
    one = ModelConfig("resnet20", widths=[4, 8, 8], unit="post")
    same = ModelConfig(name="resnet20", unit="post", widths=(4, 8, 8))
    assert one == same
    assert hash(one) == hash(same)
    assert one != ModelConfig("resnet20", unit="post")
    assert one != ModelConfig("resnet32", unit="post", widths=(4, 8, 8))
    assert one != "resnet20"
    assert eval(repr(one)) == one
    assert repr(ModelConfig()) == "ModelConfig('dynamicnet_small')"
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied == one


def test_it_does_not_change():
    widths = [4, 8, 8]
    config = ModelConfig("resnet20", widths=widths)
    widths.append(3)
    assert config.options == {"widths": (4, 8, 8)}
    for change in (
        lambda: setattr(config, "name", "resnet32"),
        lambda: setattr(config, "depth", 3),
        lambda: delattr(config, "_name"),
    ):
        with pytest.raises(AttributeError):
            change()
    with pytest.raises(TypeError):
        config.options["unit"] = "post"
    assert config.changed(unit="e") == ModelConfig("resnet20", widths=(4, 8, 8), unit="e")
    assert config.options == {"widths": (4, 8, 8)}


def test_as_plain_values():
    config = ModelConfig("continuousnet", time_epsilon=None, width=4, skipinit=True)
    assert config.as_dict() == {"name": "continuousnet", "time_epsilon": None, "width": 4, "skipinit": True}
    assert ModelConfig("dynamicnet", widths=(4, 8)).as_dict() == {"name": "dynamicnet", "widths": [4, 8]}
    assert ModelConfig(**config.as_dict()) == config


def test_an_option_of_another_model_names_those_that_have_it():
    with pytest.raises(db.ConfigurationError) as caught:
        ModelConfig("resnet20", widen=4)
    having = [name for name in list_models() if "widen" in model_options(name)]
    assert str(caught.value).endswith(f"'resnet20' 'widen'; models that have it: {', '.join(having)}")
    with pytest.raises(db.ConfigurationError, match="unknown option of model 'resnet20' 'dept'; did you mean 'depth'"):
        ModelConfig("resnet20", dept=20)
    with pytest.raises(db.ConfigurationError, match="unknown model 'resnet21'; did you mean 'resnet"):
        ModelConfig("resnet21")


@pytest.mark.parametrize("option", BY_THE_TASK)
def test_what_the_task_decides_is_not_given(option):
    with pytest.raises(db.ConfigurationError, match=f"{option} is not to be given, the task decides it"):
        ModelConfig("imexnet", **{option: 1})


@pytest.mark.parametrize(
    ("model", "option", "value", "said"),
    [
        ("resnet20", "depth", "20", "a whole number, got '20'"),
        ("resnet20", "depth", True, "a whole number, got True"),
        ("resnet20", "bias", 1, "true or false, got 1"),
        ("resnet20", "widths", 16, r"whole numbers such as \[8, 16\], got 16"),
        ("resnet20", "widths", None, "whole numbers"),
        ("resnet20", "norm", nn.BatchNorm2d, "a text, got <class"),
        ("resnet20", "shortcut", "none", "one of convolution, convolution_norm, padding, got 'none'"),
        ("dynamicnet", "controls", db.PiecewiseLinear(5), "a whole number or a text, got PiecewiseLinear"),
        ("dynamicnet", "integrator", db.as_integrator("rk4"), "a text, got"),
    ],
)
def test_values_of_another_kind(model, option, value, said):
    with pytest.raises(db.ConfigurationError, match=f"option {option} of model '{model}' expects {said}"):
        ModelConfig(model, **{option: value})


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("resnet20", depth=21),
        ModelConfig("resnet20", norm="bach"),
        ModelConfig("dynamicnet", controls="linear(1, 2, 3)"),
        ModelConfig("dynamicnet", widths=()),
        ModelConfig("twist_resnet18", stages="TT"),
        ModelConfig("continuousnet", time_epsilon=-1.0),
        ModelConfig("imexnet", operator="depthwise(foo=1)"),
    ],
    ids=repr,
)
def test_impossible_values_are_one_typed_error(config):
    with pytest.raises(db.ConfigurationError):
        config.create(3, 10)


def test_whatever_a_model_raises_is_told_with_its_options(registered):
    @registered
    def mine(in_channels: int, num_classes: int, *, width: int = 4):
        return nn.Linear(in_channels, -width)

    with pytest.raises(db.ConfigurationError, match=r"ModelConfig\('mine', width=3\) makes no network: "):
        ModelConfig("mine", width=3).create(2, 2)


@pytest.mark.parametrize("name", ["dynamicblocks_rk4", "imexnet", "midpoint_resnet", "resnet20", "second_order_cnn"])
def test_the_network_is_that_of_the_model(name):
    with torch.device("meta"):
        net, same = ModelConfig(name).create(1, 5), db.create_model(name, in_channels=1, num_classes=5)
    assert structure(net) == structure(same)
    shapes = [{key: weight.shape for key, weight in each.state_dict().items()} for each in (net, same)]
    assert shapes[0] == shapes[1]


def test_dense_and_dims():
    images = torch.randn(2, 3, 9, 8)
    small = {"dynamicnet": {"widths": (4, 8)}, "imexnet": {"widths": (4,)}, "resnet20": {"widths": (4, 4, 8)}}
    for name, options in small.items():
        net = ModelConfig(name, **options).create(3, 2, dense=True)
        assert isinstance(net, DenseNet)
        assert net(images).shape == (2, 2, 9, 8)
    signals = ModelConfig("dynamicnet", widths=(4, 8)).create(1, 2, dense=True, dims=1)
    assert signals(torch.randn(2, 1, 12)).shape == (2, 2, 12)
    with pytest.raises(
        db.ConfigurationError, match=r"'resnet20' is of images alone.*signals.*dynamicnet, dynamicnet_sm"
    ):
        ModelConfig("resnet20").create(1, 2, dims=1)
    with pytest.raises(db.ConfigurationError, match="dims must be 1"):
        ModelConfig("dynamicnet").create(1, 2, dims=4)
    with pytest.raises(db.ConfigurationError, match="channels must be a whole number of at least 1, got 0"):
        ModelConfig("dynamicnet").create(0, 2)


def test_none_is_a_value_of_options_that_know_it():
    plain = ModelConfig("imexnet", operator=None, widths=(4,)).create(1, 2)
    assert plain.blocks[0].integrator.name == "euler"
    assert ModelConfig("imexnet", widths=(4,)).create(1, 2).blocks[0].integrator.name == "imex"


@pytest.mark.parametrize("name", list_models())
def test_every_option_of_every_model_is_documented(name):
    assert [option.name for option in described_options(name).values() if not option.help] == []
