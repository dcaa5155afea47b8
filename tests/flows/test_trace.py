"""Traces: exact ones, and estimates whose mean they are."""

import pytest
import torch
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows import Exact, Hutchinson, as_field, as_trace, make_field
from dynamicblocks.flows.trace import jacobian_products

D, N, DRAWS = 3, 5, 20_000


class Own(nn.Module):
    """A field of a caller's: neither forward mode nor a closed form."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D))

    def forward(self, t, x):
        return self.net(x) * (1 + t)


class Constant(nn.Module):
    def forward(self, t, x):
        return torch.ones_like(x)


@pytest.fixture(params=["own", "concatsquash"])
def field(request):
    torch.manual_seed(0)
    made = as_field(Own()) if request.param == "own" else make_field("concatsquash", D, hidden=(8, 8))
    return made.double()


def exact(field, t, x):
    full = torch.stack([torch.func.jacrev(lambda at: field(t, at[None])[0])(row) for row in x])
    return full.diagonal(dim1=1, dim2=2).sum(1), full.square().sum((1, 2))


T = torch.tensor(0.4, dtype=torch.float64)


def test_exact_trace_and_size(field):
    x = torch.randn(N, D, dtype=torch.float64)
    trace, square = exact(field, T, x)
    found = Exact()(field, T, x, None, None, square=True)
    torch.testing.assert_close(found.trace, trace)
    torch.testing.assert_close(found.square, square)
    torch.testing.assert_close(Exact()(field, T, x, None, None).trace, trace)
    torch.testing.assert_close(found.slope, field(T, x))


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_mean_over_draws_is_the_exact_trace_and_size(field, noise):
    one = torch.randn(1, D, dtype=torch.float64)
    trace, square = exact(field, T, one)
    x = one.expand(DRAWS, -1)
    how = Hutchinson(noise)
    probe = how.draw(x, torch.Generator().manual_seed(0))
    found = how(field, T, x, None, probe, square=True)
    for estimate, true in ((found.trace, trace), (found.square, square)):
        # Five deviations of the mean.
        bound = 5 * estimate.std().item() / DRAWS**0.5
        assert abs(estimate.mean().item() - true.item()) < bound
    assert found.trace.std() > 0


def test_rademacher_draws_are_signs_and_gaussian_ones_normal():
    x = torch.zeros(10_000, 2)
    signs = Hutchinson().draw(x, torch.Generator().manual_seed(1))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    normal = Hutchinson("gaussian").draw(x, torch.Generator().manual_seed(1))
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(signs, Hutchinson().draw(x, torch.Generator().manual_seed(1)))


def test_products_of_a_caller_s_field_keep_gradients_by_weights():
    torch.manual_seed(0)
    field = as_field(Own().double())
    x = torch.randn(N, D, dtype=torch.float64)
    trace = Exact()(field, T, x, None, None).trace.sum()
    (found,) = torch.autograd.grad(trace, field.module.net[0].weight)
    weight = field.module.net[0].weight
    step = torch.zeros_like(weight)
    step[2, 1] = 1e-6
    with torch.no_grad():
        weight += step
        above = exact(field, T, x)[0].sum()
        weight -= 2 * step
        below = exact(field, T, x)[0].sum()
    assert found[2, 1].item() == pytest.approx((above - below).item() / 2e-6, rel=1e-6)


def test_without_gradients_nothing_is_recorded():
    x = torch.randn(N, D)
    with torch.no_grad():
        slope, products = jacobian_products(as_field(Own()), torch.tensor(0.0), x, x[None], None)
    assert not slope.requires_grad
    assert not products.requires_grad
    assert not x.requires_grad


def test_a_field_that_does_not_depend_on_x_has_no_trace():
    x = torch.randn(N, D)
    assert not Exact()(as_field(Constant()), torch.tensor(0.0), x, None, None).trace.any()


@pytest.mark.parametrize(
    ("spec", "features", "found"),
    [
        ("auto", 16, Exact()),
        ("auto", 17, Hutchinson()),
        ("exact", 100, Exact()),
        ("hutchinson", 2, Hutchinson("rademacher")),
        ("hutchinson(noise='gaussian')", 2, Hutchinson("gaussian")),
        (Hutchinson("gaussian"), 2, Hutchinson("gaussian")),
    ],
)
def test_traces_by_name(spec, features, found):
    assert as_trace(spec, features) == found


@pytest.mark.parametrize("spec", ["exat", "hutchinson(noise='cauchy')", 3, "hutchinson(draws=2)"])
def test_what_is_no_trace_is_said(spec):
    with pytest.raises(ConfigurationError):
        as_trace(spec)
