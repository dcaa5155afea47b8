"""The field of images: its Jacobian beside autograd's."""

import pytest
import torch

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows import ContinuousTransform, Exact, Hutchinson
from dynamicblocks.flows.fields.conv import ConvField
from dynamicblocks.functional import Solver


def made(shape=(2, 4, 4), number=3, **options):
    torch.manual_seed(0)
    field = ConvField(shape, hidden=options.pop("hidden", (5, 4)), **options).double()
    with torch.no_grad():
        for weight in field.parameters():  # the last layer's are zero at first
            weight.copy_(0.5 * torch.randn_like(weight))
    x = torch.randn(number, *shape, dtype=torch.float64)
    context = torch.randn(number, options["context"], dtype=torch.float64) if options.get("context") else None
    return field, x, context


CASES = [
    {},
    {"context": 3},
    {"time": "fourier"},
    {"patch": 2},
    {"hidden": ()},
    {"activation": "silu", "context": 2, "patch": 2, "shape": (1, 4, 6)},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("each", [False, True], ids=["one time", "a time each"])
def test_products_are_those_of_autograd(options, each):
    field, x, context = made(**dict(options))
    t = torch.rand(len(x) if each else (), dtype=torch.float64)
    tangents = torch.randn(2, *x.shape, dtype=torch.float64)
    slope, products = field.jvp(t, x, tangents, context)
    assert torch.allclose(slope, field(t, x, context), rtol=1e-12)
    for tangent, product in zip(tangents, products, strict=True):
        _, exact = torch.func.jvp(lambda at: field(t, at, context), (x,), (tangent,))
        assert torch.allclose(product, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_exact_trace_is_that_of_the_whole_jacobian(options):
    field, x, context = made(number=2, **dict(options))
    t = torch.tensor(0.3, dtype=torch.float64)
    found = Exact()(field, t, x, context, None, square=True)
    for row in range(len(x)):
        of = context if context is None else context[row : row + 1]
        whole = torch.autograd.functional.jacobian(lambda at, of=of: field(t, at[None], of)[0], x[row])
        whole = whole.reshape(x[row].numel(), -1)
        assert found.trace[row].item() == pytest.approx(whole.trace().item(), rel=1e-10)
        assert found.square[row].item() == pytest.approx(whole.square().sum().item(), rel=1e-10)


def test_gradients_by_weights_are_those_of_products_by_autograd():
    field, x, _ = made()
    t, e = torch.tensor(0.3, dtype=torch.float64), torch.randn(1, 3, 2, 4, 4, dtype=torch.float64)

    def loss(slope, product):
        return slope.square().sum() + (e * product).sum()

    weights = tuple(field.parameters())
    ours = torch.autograd.grad(loss(*field.jvp(t, x, e)), weights)
    theirs = torch.autograd.grad(loss(*torch.func.jvp(lambda at: field(t, at), (x,), (e[0],))), weights)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-11)


def test_mean_of_estimates_is_the_trace():
    field, x, _ = made(shape=(1, 3, 3), number=1)
    t = torch.tensor(0.3, dtype=torch.float64)
    exact = Exact()(field, t, x, None, None).trace.item()
    many = x.expand(5_000, -1, -1, -1)
    for noise in ("rademacher", "gaussian"):
        trace = Hutchinson(noise)
        probe = trace.draw(many, torch.Generator().manual_seed(0))
        found = trace(field, t, many, None, probe).trace
        assert found.mean().item() == pytest.approx(exact, abs=4 * found.std().item() / len(many) ** 0.5)


def test_untrained_moves_nothing():
    field = ConvField((1, 8, 8), hidden=(8, 8), context=2)
    x, context = torch.randn(2, 1, 8, 8), torch.randn(2, 2)
    assert not field(torch.tensor(0.7), x, context).any()
    flow = ContinuousTransform(field, trace="hutchinson", context=2, solver=Solver("rk4", step_size=0.5))
    found = flow.to_base(x, context)
    assert torch.equal(found.value, x)
    assert not found.log_det.any()


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
def test_images_do_not_fade_in_untrained_layers(activation):
    """What the last layer sees of other images differs, so that it has something to learn from."""
    torch.manual_seed(0)
    field = ConvField((1, 8, 8), activation=activation)
    seen = []
    field.layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    field(torch.tensor(0.5), torch.randn(20, 1, 8, 8))
    assert 0.2 < seen[0].std(0).mean().item() < 2.0


def test_options_that_cannot_be():
    with pytest.raises(ConfigurationError, match=r"an image has the shape \(channels, height, width\), got \(8, 8\)"):
        ConvField((8, 8))
    with pytest.raises(ConfigurationError, match="7 x 7 pixels do not divide into patches of 2 x 2"):
        ConvField((1, 7, 7), patch=2)
    with pytest.raises(ConfigurationError, match="activation"):
        ConvField((1, 8, 8), activation="softmax")


def test_context_that_is_missing_or_too_much_is_told():
    x, t = torch.zeros(2, 1, 4, 4), torch.tensor(0.0)
    with pytest.raises(ArgumentError, match=r"takes a context of shape \(n, 3\), got none"):
        ConvField((1, 4, 4), hidden=(4,), context=3)(t, x)
    with pytest.raises(ArgumentError, match="takes no context"):
        ConvField((1, 4, 4), hidden=(4,))(t, x, torch.zeros(2, 3))
