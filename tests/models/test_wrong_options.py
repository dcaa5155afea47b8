"""Whatever is written for an option of anything that has a name is taken, or refused by an error of the package."""

import inspect
import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks import connectors
from dynamicblocks.controls import bases
from dynamicblocks.gradients import gradients
from dynamicblocks.integrators import integrators
from dynamicblocks.layers import Branch, Conv2d, TwistConv2d, layers
from dynamicblocks.layers.activations import activations
from dynamicblocks.layers.implicit_operators import operators
from dynamicblocks.layers.norms import norms
from dynamicblocks.memory import affordable
from dynamicblocks.times import MAX_CONTROLS, grids

WRONG = (
    -1,
    0,
    2.5,
    None,
    "x",
    "f(",
    "",
    True,
    math.nan,
    math.inf,
    1e9,
    2**63,
    [],
    {},
    [1],
    [None],
    (-1, 2),
    b"x",
    object(),
)

NEEDED = {
    "width": 4,
    "in_channels": 4,
    "out_channels": 8,
    "num_features": 4,
    "num_classes": 3,
    "order": "conv",
    "t0": 0.0,
    "t1": 1.0,
    "steps": 3,
    "ratio": 2.0,
    "kernel_size": 3,
    "method": "rk4",
    "layer": "symmetric(4)",
}
REGISTRIES = (layers, norms, activations, operators, bases, grids, integrators, gradients)
CLASSES = (
    *(connectors.Opening, connectors.PooledConnector, connectors.PaddedConnector, connectors.ResidualConnector),
    *(connectors.Head, connectors.DenseHead, Branch, Conv2d, TwistConv2d, db.DynamicBlock),
)
SMALL = {
    "dynamicnet": {"widths": (4,), "units": 1},
    "dynamicblocks_rk4": {},
    "continuousnet": {"width": 4, "units": 1},
    "resnet": {"widths": (4, 8, 8), "depth": 8},
    "wide_resnet": {"width": 4, "widen": 1, "depth": 10},
    "imexnet": {"widths": (4,), "units": 1},
    "parabolic_cnn": {"widths": (4, 4), "units": 1},
    "hamiltonian_resnet": {"widths": (4, 4, 4), "depth": 14},
    "midpoint_resnet": {"widths": (4, 4, 4), "depth": 8},
    "lm_resnet": {"widths": (4, 8, 8), "depth": 8},
    "twist_resnet18": {"units": (1, 1), "width": 4, "stages": "TF"},
}


def check_every_option(make, signature, usual):
    lines = []
    for option, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or option in ("device", "dtype"):
            continue
        for value in WRONG:
            try:
                with affordable("it"):
                    make(**{**usual, option: value})
            except db.DynamicBlocksError as error:
                lines.append(str(error))
            except Exception as error:
                raise AssertionError(f"{option} = {value!r} raised {error!r}") from error
    assert [line for line in lines if "\n" in line or len(line) > 600] == []


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_options_of_what_has_a_name(registry):
    for name in registry:
        signature = inspect.signature(registry[name])
        usual = {
            option: NEEDED[option]
            for option, parameter in signature.parameters.items()
            if parameter.default is parameter.empty and option in NEEDED
        }
        check_every_option(registry[name], signature, usual)


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_options_of_parts(made):
    signature = inspect.signature(made)
    usual = {
        option: NEEDED[option]
        for option, each in signature.parameters.items()
        if each.default is each.empty and option in NEEDED
    }
    check_every_option(made, signature, usual)


@pytest.mark.parametrize(
    "name", [name if name == "dynamicnet" else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_options_of_models(name):
    check_every_option(
        lambda **options: db.create_model(name, **options), inspect.signature(db.models.models[name]), SMALL[name]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"widths": (16, -3)}, "each of widths must be a whole number of at least 1, got -3"),
        ({"widths": (8.5, 16)}, "each of widths must be a whole number of at least 1, got 8.5"),
        ({"widths": (0,)}, "each of widths"),
        ({"widths": ()}, "widths must be a list of whole numbers"),
        ({"widths": (4,) * 1001}, "widths must be a list of at most 1,000 whole numbers, got 1,001"),
        ({"layer": "preact_double(-4)"}, "preact_double"),
        ({"norm": 3}, "norm must be a name"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"num_classes": 2.5}, "num_classes must be a whole number of at least 1, got 2.5"),
        ({"units": 10**9}, "units must be a whole number from 1 to 10,000, got 1000000000"),
        ({"steps": 10**9}, "steps must be at most 100,000"),
        ({"controls": "linear(1000000000)"}, "the number of controls of PiecewiseLinear must be a whole number from 2"),
        ({"controls": "linear(-1)"}, "the number of controls of PiecewiseLinear"),
        ({"controls": "bspline(2.5)"}, "size of basis of controls 'bspline' expects a whole number or null, got 2.5"),
        ({"controls": "legendre(5000)"}, "the number of controls of Legendre must be a whole number from 1 to 1,000"),
        ({"widths": (100_000, 100_000)}, "GB of memory, and there are"),
        ({"widths": (2**40,)}, "GB of memory, and there are"),
    ],
)
def test_errors_name_the_option(options, said):
    with pytest.raises(db.ConfigurationError) as caught:
        db.create_model("dynamicnet", **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text", ["preact_double(-4)", "preact_double(2.5)", "preact_double(None)", "preact_double('x')"]
)
def test_shorthands_of_layers(text):
    with pytest.raises(db.ConfigurationError, match="width"):
        db.DynamicBlock(text, 2)


def test_layers_are_counted_by_the_first_of_them_before_others_are_made():
    made = []

    def large():
        made.append(nn.Linear(1000, 1000))
        return made[-1]

    with pytest.raises(db.ConfigurationError, match=r"a block of 10,000 controls, each a Linear, .* needs 80 GB"):
        db.DynamicBlock(large, MAX_CONTROLS)
    assert len(made) == 1


def test_tensors_without_memory_are_not_counted():
    with affordable("it"), torch.device("meta"):
        assert nn.Linear(10**6, 10**6).weight.is_meta
    for make in (
        lambda: torch.empty(10**6, 10**6),
        lambda: torch.zeros((10**6, 10**6)),
        lambda: torch.ones(size=(10**12,)),
        lambda: torch.full((10**12,), 1.0),
        lambda: [torch.empty(10**8) for _ in range(10**6)],  # together
    ):
        with pytest.raises(db.ConfigurationError, match="it, weights and their gradients, needs"), affordable("it"):
            make()
