"""What a block takes for a layer: signatures, factories, modules, strings."""

import re

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import ResidualUnit, Symmetric, takes_time
from dynamicblocks.layers.factory import independent_layers
from tests.layer_tools import double


def layer_with(forward):
    return type("Layer", (nn.Module,), {"forward": forward})()


@pytest.mark.parametrize(
    ("forward", "timed"),
    [
        (lambda self, y: y, False),
        (lambda self, y, scale=1.0: y, False),
        (lambda self, y, *, scale=1.0: y, False),
        (lambda self, *arguments: arguments[0], False),
        (lambda self, y=None: y, False),
        (lambda self, t, y: y, True),
        (lambda self, t, y, scale=1.0: y, True),
        (lambda self, t, y, *rest: y, True),
    ],
)
def test_takes_time_reads_the_signature(forward, timed):
    assert takes_time(layer_with(forward)) is timed


@pytest.mark.parametrize("module", [nn.Sequential(nn.ReLU()), nn.Conv2d(2, 2, 3), Symmetric(2), ResidualUnit(2)])
def test_ordinary_modules_take_the_state_alone(module):
    assert takes_time(module) is False


@pytest.mark.parametrize(
    ("forward", "signature"),
    [(lambda self: 0, "()"), (lambda self, t, y, z: y, "(t, y, z)"), (lambda self, **state: 0, "(**state)")],
)
def test_other_signatures_are_refused(forward, signature):
    with pytest.raises(db.ConfigurationError, match=re.escape(f"Layer.forward{signature} must take (y) or (t, y)")):
        takes_time(layer_with(forward))


def test_layers_that_take_time_get_the_time_of_each_stage():
    times = []

    class Timed(nn.Module):
        def forward(self, t, y):
            times.append(t)
            return 0 * y

    db.DynamicBlock(Timed, controls=2, times=[1.0, 2.0, 5.0], integrator="rk4_classic")(torch.zeros(1))
    assert times == [1.0, 1.5, 1.5, 2.0, 2.0, 3.5, 3.5, 5.0]


@pytest.mark.parametrize(("controls", "count"), [("constant(3)", 3), ("linear(4)", 4), (1, 1)])
def test_a_factory_is_called_once_a_control(controls, count):
    made = []

    def factory():
        made.append(Symmetric(2))
        return made[-1]

    block = db.DynamicBlock(factory, controls)
    assert len(made) == count
    assert all(layer is own for layer, own in zip(block.controls.layers, made, strict=True))


def test_a_string_names_a_layer():
    first, second = independent_layers("symmetric(4, bias=False)", 2)
    assert isinstance(first, Symmetric)
    assert not torch.equal(first.weight, second.weight)


def test_copies_of_a_module_are_initialised_independently():
    original = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
    with torch.no_grad():
        original[1].running_var.fill_(7.0)
        original[1].weight.fill_(5.0)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    copies = independent_layers(original, 3)
    kernels = [original[0].weight, *(copy[0].weight for copy in copies)]
    assert all(not torch.equal(a, b) for i, a in enumerate(kernels) for b in kernels[:i])
    assert all(copy[1].running_var.tolist() == [1, 1] and copy[1].weight.tolist() == [1, 1] for copy in copies)
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())


def test_copies_of_a_module_keep_its_dtype_and_mode():
    layer = independent_layers(nn.Conv2d(2, 2, 3).double().eval(), 1)[0]
    assert layer.weight.dtype is double
    assert not layer.training


class Shapeshifter:
    """A factory whose layers grow."""

    def __init__(self):
        self.width = 1

    def __call__(self):
        self.width += 1
        return nn.Linear(self.width, 1)


class Bare(nn.Module):
    """Weights and no way to draw them anew."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, y):
        return self.scale * y


class Tied(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, y):
        return self.scale * y


class Unsized(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.parameter.UninitializedParameter()

    def forward(self, y):
        return self.scale * y


single, shared = nn.Linear(2, 2), nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: single, "returned the same module or parameter twice"),
        (lambda: Tied(shared), "returned the same module or parameter twice"),
        (
            Shapeshifter(),
            "layers 0 and 1 differ in weight (1, 2) torch.float32, weight (1, 3) torch.float32",
        ),
        (lambda: torch.relu, "must return an nn.Module, got builtin_function_or_method"),
        (lambda: None, "must return an nn.Module, got NoneType"),
        (5, "a factory, a module or a string, got 5"),
        (Unsized, "Unsized has lazy parameters"),
        (Bare(), "cannot initialise a copy of Bare: its part 'itself' (Bare) holds parameters"),
        (nn.Sequential(nn.ReLU(), Bare()), "cannot initialise a copy of Sequential: its part '1' (Bare)"),
    ],
)
def test_sources_that_give_no_independent_layers_are_refused(source, message):
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        independent_layers(source, 2)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules_are_refused():
    with pytest.raises(db.ConfigurationError, match="LazyConv2d has lazy parameters"):
        independent_layers(lambda: nn.LazyConv2d(2, 3), 1)
