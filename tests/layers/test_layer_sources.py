"""What a block takes for a layer: signatures, factories, modules, strings."""

import re

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import Branch, PreactDouble, ResidualUnit, Symmetric, state_width, takes_time
from dynamicblocks.layers.factory import independent_layers
from tests.layer_tools import double


def layer_with(forward, **attributes):
    return type("Layer", (nn.Module,), {"forward": forward, **attributes})()


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
        (lambda self, t, *rest: rest[0], True),
        (lambda self, time, y: y, True),
        (lambda self, time, y=None: y, True),
        (lambda self, t: t, False),
    ],
)
def test_takes_time_reads_the_signature(forward, timed):
    assert takes_time(layer_with(forward)) is timed


@pytest.mark.parametrize("module", [nn.Sequential(nn.ReLU()), nn.Conv2d(2, 2, 3), Symmetric(2), ResidualUnit(2)])
def test_ordinary_modules_take_the_state_alone(module):
    assert takes_time(module) is False


@pytest.mark.parametrize(
    ("forward", "signature"),
    [
        (lambda self: 0, "()"),
        (lambda self, t, y, z: y, "(t, y, z)"),
        (lambda self, **state: 0, "(**state)"),
        (lambda self, y, *, scale: y, "(y, *, scale)"),
        (lambda self, y, context: y, "(y, context)"),
        (lambda self, y, t: y, "(y, t)"),
    ],
)
def test_other_signatures_are_refused(forward, signature):
    with pytest.raises(db.ConfigurationError, match=re.escape(f"Layer.forward{signature} must take (y) or (t, y)")):
        takes_time(layer_with(forward))


def test_a_decoder_is_not_taken_for_a_layer_with_time():
    message = r"TransformerDecoderLayer\.forward\(.*name its first parameter t if that is the time, or declare"
    with pytest.raises(db.ConfigurationError, match=message):
        db.DynamicBlock(lambda: nn.TransformerDecoderLayer(4, 1), 2)


@pytest.mark.parametrize(
    ("forward", "declared"),
    [
        (lambda self, when, y: y, True),
        (lambda self, *arguments: arguments[-1], True),
        (lambda self, t, y=None: t, False),
        (lambda self, y: y, False),
        (lambda self, y, after=None: y, True),
    ],
)
def test_a_declaration_decides(forward, declared):
    assert takes_time(layer_with(forward, takes_time=declared)) is declared


@pytest.mark.parametrize(
    ("forward", "declared", "message"),
    [
        (lambda self, y: y, True, "cannot be called with (t, y), though takes_time of Layer is True"),
        (lambda self, t, y, z: y, True, "cannot be called with (t, y), though takes_time of Layer is True"),
        (lambda self, t, y: y, False, "cannot be called with (y), though takes_time of Layer is False"),
        (lambda self, y, *, scale: y, False, "cannot be called with (y), though takes_time of Layer is False"),
        (lambda self, y: y, 1, "takes_time of Layer must be True or False (is it called with the time?), got 1"),
    ],
)
def test_declarations_that_cannot_be_are_refused(forward, declared, message):
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        takes_time(layer_with(forward, takes_time=declared))


class Parts(nn.Module):
    def forward(self, y):
        return y

    def later(self, t, y, other):
        return y

    def coupled(self, y, other):
        return y

    def open(self, *arguments):
        return arguments[0]

    def still(self, y):
        return y

    def empty(self):
        return 0


class TimedParts(Parts):
    takes_time = True

    def forward(self, s, y):
        return y


@pytest.mark.parametrize(
    ("part", "plain", "declared"),
    [
        ("forward", False, True),
        ("later", True, True),
        ("coupled", False, True),
        ("open", False, True),
        ("still", False, False),
    ],
)
def test_parts_of_a_layer_may_take_more_than_the_state(part, plain, declared):
    assert takes_time(getattr(Parts(), part)) is plain
    assert takes_time(getattr(TimedParts(), part)) is declared


def test_a_part_without_a_state_is_refused():
    for layer in (Parts(), TimedParts()):
        with pytest.raises(db.ConfigurationError, match=r"Parts\.empty\(\)"):
            takes_time(layer.empty)


def test_functions_are_read_like_layers():
    assert takes_time(lambda t, y: y) is True
    assert takes_time(lambda y: y) is False
    with pytest.raises(db.ConfigurationError, match=r"<lambda>\(y, z\) must take"):
        takes_time(lambda y, z: y)
    with pytest.raises(db.ConfigurationError, match="the signature of tanh cannot be read; declare takes_time"):
        takes_time(torch.tanh)


def test_forwards_whose_signature_is_hidden_are_declared():
    layer = Parts()
    layer.forward = torch.relu
    with pytest.raises(db.ConfigurationError, match=r"the signature of Parts\.forward cannot be read"):
        takes_time(layer)
    layer.takes_time = False
    assert takes_time(layer) is False


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
        (lambda y: -y, "the layer <lambda>(y) needs arguments, but a factory takes none and returns an nn.Module"),
        (lambda t, y: -y, "wrap a function of the state in an nn.Module with forward(y) or forward(t, y)"),
        (lambda *, width: nn.Linear(width, width), "the layer <lambda>(*, width) needs arguments"),
        (torch.tanh, "the layer tanh needs arguments, but a factory takes none"),
        (nn.ReLU6.forward, "the layer forward(self, input"),
        (Tied, "the layer Tied(scale) needs arguments, but a factory takes none"),
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


def test_factories_may_have_defaults():
    assert isinstance(independent_layers(lambda width=2, *rest, **options: nn.Linear(width, width), 1)[0], nn.Linear)


class Wide(nn.Module):
    width = 6

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        (Symmetric(4, hidden=8), 4),
        (ResidualUnit(5, "a"), 5),
        (PreactDouble(3), 3),
        (Branch("conv norm", 3, 7), 3),
        (Branch("act", 3, 3), 3),
        (Wide(), 6),
        (nn.Conv2d(2, 3, 1), 2),
        (nn.Linear(7, 3), 7),
        (nn.Sequential(nn.Tanh(), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)), 4),
        (nn.Sequential(nn.GroupNorm(2, 6), nn.Linear(3, 3)), 6),
        (nn.ReLU(), None),
        (Bare(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_tell_how_many_channels_they_take(layer, width):
    assert state_width(layer) == width
