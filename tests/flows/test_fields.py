"""Fields of flows: slopes, products with the Jacobian and traces beside automatic differentiation."""

import pytest
import torch
from torch import nn

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows import as_field, fields, make_field
from dynamicblocks.flows.fields import ClosedForm, ForwardMode
from dynamicblocks.flows.fields.activations import ACTIVATIONS

HIDDEN = {"hyper": (16, 8), "potential": (16, 16, 16)}
N, D, C = 4, 3, 2


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def field_of(name, **options):
    field = make_field(name, D, hidden=HIDDEN.get(name, (16, 16)), horizon=2.0, **options)
    for weight in field.parameters():
        nn.init.normal_(weight, std=0.7)
    return field


def jacobians(field, t, x, context):
    """df/dx of each sample, by reverse mode."""

    def of(row, at):
        time = t if t.ndim == 0 else t[row : row + 1]
        return field(time, at[None], None if context is None else context[row : row + 1])[0]

    return torch.stack([torch.func.jacrev(lambda at, row=row: of(row, at))(x[row]) for row in range(len(x))])


@pytest.mark.parametrize("each_its_time", [False, True])
@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("name", list(fields))
def test_slope_trace_and_products_are_those_of_the_jacobian(name, context, each_its_time):
    field = field_of(name, context=context)
    x, c = torch.randn(N, D), torch.randn(N, context) if context else None
    t = torch.rand(N) if each_its_time else torch.tensor(0.3)
    full = jacobians(field, t, x, c)
    slope, trace = field.divergence(t, x, c)
    assert isinstance(field, ClosedForm)
    torch.testing.assert_close(slope, field(t, x, c), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trace, full.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10, atol=1e-10)
    if isinstance(field, ForwardMode):
        vectors = torch.randn(2, N, D)
        again, products = field.jvp(t, x, vectors, c)
        torch.testing.assert_close(again, slope, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(products, torch.einsum("nij,knj->kni", full, vectors), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 8)])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("name", ["concat", "concatsquash"])
def test_dense_fields_of_every_activation_and_depth(name, activation, hidden):
    field = make_field(name, D, hidden=hidden, activation=activation, time="fourier")
    t, x = torch.tensor(0.3), torch.randn(N, D)
    full = jacobians(field, t, x, None)
    slope, trace = field.divergence(t, x)
    torch.testing.assert_close(slope, field(t, x))
    torch.testing.assert_close(trace, full.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(field.jvp(t, x, x[None])[1][0], torch.einsum("nij,nj->ni", full, x))


def test_trace_of_a_dense_field_has_gradients_by_weights():
    field = field_of("concatsquash")
    x = torch.randn(N, D)

    def of(*weights):
        named = dict(zip(dict(field.named_parameters()), weights, strict=True))
        return torch.func.functional_call(_Divergence(field), {f"field.{key}": each for key, each in named.items()}, x)

    weights = tuple(each.detach().requires_grad_() for each in field.parameters())
    assert torch.autograd.gradcheck(of, weights, eps=1e-6, atol=1e-6)


class _Divergence(nn.Module):
    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x):
        return self.field.divergence(torch.tensor(0.3), x)[1]


@pytest.mark.parametrize("hidden", [(8,), (8, 8), (8, 8, 8)])
@pytest.mark.parametrize("context", [0, C])
def test_potential_field_is_the_gradient_and_its_residual_that_of_the_equation(hidden, context):
    field = make_field("potential", D, hidden=hidden, context=context, horizon=2.0)
    x = (5 * torch.randn(N, D)).requires_grad_()
    t, c = torch.rand(N, requires_grad=True), torch.randn(N, context) if context else None
    by_x, by_t = torch.autograd.grad(field.potential(t, x, c).sum(), (x, t))
    slope, _, residual = field.with_residual(t, x, c)
    torch.testing.assert_close(slope, by_x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(residual, (by_t + 0.5 * by_x.square().sum(1)).abs(), rtol=1e-10, atol=1e-10)


def test_a_module_of_the_callers_is_a_field():
    class Mine(nn.Module):
        def forward(self, t, x, context=None):
            return t * x if context is None else context * x

    field = as_field(Mine(), context=1)
    assert field(torch.tensor(2.0), torch.ones(3, 1), torch.full((3, 1), 5.0)).tolist() == [[5.0]] * 3
    assert as_field(field, context=1) is field


class WithoutContext(nn.Module):
    def forward(self, t, x):
        return t * x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: as_field(WithoutContext(), context=3), ConfigurationError, "3 numbers of context, but .* takes none"),
        (
            lambda: as_field(make_field("concat", D), context=3),
            ConfigurationError,
            "takes none; make it with context=3",
        ),
        (lambda: as_field(lambda t, x: x), ConfigurationError, "must be a module"),
        (lambda: make_field("concatsquahs", D), ConfigurationError, "concatsquash"),
        (lambda: make_field("hyper", D), ConfigurationError, "two widths"),
        (lambda: make_field("hyper", D, hidden=(8, 8), activation="relu"), ConfigurationError, "of tanh"),
        (lambda: make_field("potential", D, hidden=(8, 16)), ConfigurationError, "as wide as each other"),
        (lambda: make_field("potential", D, hidden=(8, 8), time="fourier"), ConfigurationError, "linear"),
        (lambda: make_field("concat", D, activation="tahn"), ConfigurationError, "tanh"),
        (lambda: make_field("concat", D, time="sine"), ConfigurationError, "fourier"),
        (lambda: make_field("concat", D, hidden=(0,)), ConfigurationError, "hidden"),
        (lambda: make_field("concat", D, context=2)(torch.tensor(0.0), torch.zeros(1, D)), ArgumentError, "got none"),
        (
            lambda: make_field("concat", D)(torch.tensor(0.0), torch.zeros(1, D), torch.zeros(1, 2)),
            ArgumentError,
            "takes no context",
        ),
    ],
)
def test_what_cannot_be_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()
