"""Flows: densities beside exact ones, there and back, gradients, contexts, distributions."""

import math

import pytest
import torch
from torch import nn

from dynamicblocks.errors import ArgumentError, ConfigurationError, SolverError
from dynamicblocks.flows import (
    Compose,
    ContinuousTransform,
    Flow,
    Hutchinson,
    Standardise,
    make_base,
    make_flow,
)
from dynamicblocks.functional import Solver

TIGHT = Solver(rtol=1e-9, atol=1e-9)
HORIZON = 1.5


class Linear(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, x):
        return x @ self.matrix.t()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear_flow(matrix, **options):
    options = {"trace": "exact", "solver": TIGHT, "horizon": HORIZON} | options
    return Flow(ContinuousTransform(Linear(matrix), **options), make_base("gaussian", (len(matrix),)))


def exact_log_prob(matrix, x):
    """x = expm(T A) z with z normal."""
    z = x @ torch.matrix_exp(-HORIZON * matrix).t()
    return -0.5 * z.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi) - HORIZON * matrix.trace()


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint", "adjoint(interpolant=True)"])
@pytest.mark.usefixtures("double")
def test_a_linear_field_under_every_gradient_mode(gradient):
    matrix = 0.5 * torch.randn(3, 3)
    solver = Solver(rtol=1e-9, atol=1e-9, gradient=gradient)
    flow = linear_flow(matrix, solver=solver)
    x = torch.randn(5, 3, requires_grad=True)
    found = flow.transform.to_base(x)
    # The trace is constant, so that every step adds it up exactly.
    torch.testing.assert_close(found.log_det, (-HORIZON * matrix.trace()).expand(5), rtol=1e-13, atol=1e-13)
    log_prob = flow.log_prob(x)
    by_x, by_matrix = torch.autograd.grad(log_prob.square().sum(), (x, flow.transform.field.module.matrix))
    other, true = matrix.clone().requires_grad_(), x.detach().clone().requires_grad_()
    expected = exact_log_prob(other, true)
    torch.testing.assert_close(log_prob, expected, rtol=1e-7, atol=1e-8)
    wanted = torch.autograd.grad(expected.square().sum(), (true, other))
    torch.testing.assert_close((by_x, by_matrix), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("double")
def test_an_estimated_trace_of_a_linear_field_is_a_quadratic_form():
    matrix = torch.randn(3, 3)
    flow = linear_flow(matrix, trace="hutchinson")
    x = torch.randn(5, 3)
    e = Hutchinson().draw(x, torch.Generator().manual_seed(3))
    found = flow.transform.to_base(x, None, torch.Generator().manual_seed(3))
    expected = -HORIZON * torch.einsum("ni,ij,nj->n", e, matrix, e)
    torch.testing.assert_close(found.log_det, expected, rtol=1e-12, atol=1e-12)


def test_two_passes_before_one_backward_pass_give_the_gradients_of_both():
    flow = make_flow(2, hidden=(8, 8), trace="hutchinson", solver=Solver("rk4", step_size=0.25)).double()
    x, other = torch.randn(4, 2).double(), torch.randn(4, 2).double()

    def gradients(*seeds_and_points):
        parts = [-flow.log_prob(at, generator=torch.Generator().manual_seed(s)).mean() for s, at in seeds_and_points]
        return torch.autograd.grad(sum(parts), tuple(flow.parameters()))

    together = gradients((1, x), (2, other))
    apart = [a + b for a, b in zip(gradients((1, x)), gradients((2, other)), strict=True)]
    torch.testing.assert_close(together, tuple(apart), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_two_passes_likewise_under_the_adjoint(gradient):
    solver = Solver(rtol=1e-8, atol=1e-8, gradient=gradient)
    flow = make_flow(2, hidden=(8,), trace="hutchinson", solver=solver).double()
    x, other = torch.randn(4, 2).double(), torch.randn(4, 2).double()
    first = flow.log_prob(x, generator=torch.Generator().manual_seed(1)).mean()
    second = flow.log_prob(other, generator=torch.Generator().manual_seed(2)).mean()
    found = torch.autograd.grad(first + second, tuple(flow.parameters()))
    alone = flow.log_prob(x, generator=torch.Generator().manual_seed(1)).mean()
    begin = torch.autograd.grad(alone, tuple(flow.parameters()))
    end = torch.autograd.grad(
        flow.log_prob(other, generator=torch.Generator().manual_seed(2)).mean(), tuple(flow.parameters())
    )
    expected = tuple(a + b for a, b in zip(begin, end, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("field", ["concat", "concatsquash", "hyper", "potential"])
def test_the_density_integrates_to_one_and_back_is_back(field):
    hidden = {"hyper": (16, 8)}.get(field, (16, 16))
    flow = make_flow(
        2, field=field, hidden=hidden, mean=torch.tensor([1.0, -0.5]), std=torch.tensor([0.6, 1.4]),
        solver=Solver(rtol=1e-5, atol=1e-5),
    ).double()  # fmt: skip
    with torch.no_grad():
        for weight in flow.parameters():
            weight.mul_(1.5)
        side = torch.linspace(-8, 8, 121, dtype=torch.float64)
        x = torch.cartesian_prod(side, side)
        mass = flow.log_prob(x).exp().sum() * (side[1] - side[0]) ** 2
        assert mass.item() == pytest.approx(1, abs=0.005)
        points = flow.sample(20)
        exact = flow.with_solver(TIGHT)
        torch.testing.assert_close(exact.inverse(exact(points)), points, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("double")
def test_samples_come_with_the_density_that_they_have_and_with_gradients():
    flow = make_flow(2, hidden=(8, 8), solver=TIGHT, mean=torch.ones(2), std=torch.full((2,), 3.0))
    x, log_prob = flow.rsample_and_log_prob(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x, flow.sample(6, generator=torch.Generator().manual_seed(1)), rtol=1e-6, atol=1e-6)
    # By the weights, beside finite differences.
    weight = flow.continuous.field.layers[0].weight

    def loss():
        x, log_prob = flow.rsample_and_log_prob(6, generator=torch.Generator().manual_seed(1))
        return (log_prob + x.square().sum(1)).mean()

    (found,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        weight[0, 0] += 1e-5
        above = loss()
        weight[0, 0] -= 2e-5
        below = loss()
    assert found[0, 0].item() == pytest.approx((above - below).item() / 2e-5, rel=1e-4)


def test_samples_of_a_linear_flow_have_its_covariance():
    matrix = torch.tensor([[0.3, 0.2], [-0.1, -0.2]])
    flow = linear_flow(matrix, solver=Solver("rk4", step_size=0.1))
    x = flow.sample(40_000, generator=torch.Generator().manual_seed(0))
    flowed = torch.matrix_exp(HORIZON * matrix)
    torch.testing.assert_close(torch.cov(x.t()), flowed @ flowed.t(), rtol=0.05, atol=0.03)


def test_penalties_are_integrals_along_the_way():
    matrix = torch.tensor([[0.3, 0.2], [-0.1, -0.2]], dtype=torch.float64)
    flow = linear_flow(matrix, penalties=("kinetic", "jacobian"))
    x = torch.randn(4, 2, dtype=torch.float64)
    found = flow.transform.to_base(x).penalties
    torch.testing.assert_close(found["jacobian"], (HORIZON * matrix.square().sum()).expand(4), rtol=1e-12, atol=1e-12)
    times = torch.linspace(0, HORIZON, 2001, dtype=torch.float64)
    path = torch.stack([x @ torch.matrix_exp((t - HORIZON) * matrix).t() for t in times])
    energy = torch.trapezoid((path @ matrix.t()).square().sum(-1), times, dim=0)
    torch.testing.assert_close(found["kinetic"], energy, rtol=1e-6, atol=1e-8)
    back = flow.transform.to_data(flow(x)).penalties
    torch.testing.assert_close(back["kinetic"], energy, rtol=1e-6, atol=1e-7)


def test_the_penalty_of_a_potential_is_nothing_on_straight_ways():
    flow = make_flow(
        2, field="potential", hidden=(8, 8), penalties=("hjb", "kinetic", "jacobian"), solver=TIGHT
    ).double()
    field = flow.continuous.field
    with torch.no_grad():
        # Phi = b . x - |b|^2 t / 2: everything moves along b, and d Phi/dt = -|grad Phi|^2 / 2.
        for weight in field.parameters():
            weight.zero_()
        field.b.copy_(torch.tensor([3.0, 4.0, -12.5]))
    found = flow.transform.to_base(torch.randn(4, 2).double())
    assert found.penalties["hjb"].abs().max() < 1e-12
    torch.testing.assert_close(found.penalties["kinetic"], torch.full((4,), 25.0, dtype=torch.float64))
    assert not found.penalties["jacobian"].any()


def test_context_changes_the_density_and_gets_gradients():
    flow = make_flow(2, hidden=(8,), context=3, solver=Solver(gradient="adjoint", rtol=1e-7, atol=1e-7)).double()
    x = torch.randn(5, 2).double()
    context = torch.randn(5, 3).double().requires_grad_()
    log_prob = flow.log_prob(x, context)
    torch.testing.assert_close(log_prob[:1], flow.log_prob(x[:1], context[0]), rtol=1e-5, atol=1e-6)
    (found,) = torch.autograd.grad(log_prob[0], context)
    assert found[0].abs().sum() > 0
    with torch.no_grad():
        step = torch.zeros_like(context)
        step[0, 1] = 1e-4
        slope = (flow.log_prob(x, context + step) - flow.log_prob(x, context - step))[0] / 2e-4
    assert found[0, 1].item() == pytest.approx(slope.item(), rel=1e-3)


def test_another_solver_shares_the_weights():
    flow = make_flow(2, hidden=(8,), mean=torch.zeros(2), std=torch.ones(2))
    euler = flow.with_solver(Solver("euler", step_size=0.25))
    assert flow.continuous.solver.method == "dopri5"
    assert euler.continuous.solver.method == "euler"
    assert all(a is b for a, b in zip(flow.parameters(), euler.parameters(), strict=True))
    z = torch.randn(3, 2)
    field = flow.continuous.field
    expected = z
    for step in range(4):
        expected = expected + 0.25 * field(torch.tensor(0.25 * step), expected)
    torch.testing.assert_close(euler.inverse(z), expected)


def test_particles_go_from_the_base_to_the_data_in_its_units():
    flow = make_flow(2, hidden=(8,), mean=torch.tensor([5.0, 0.0]), std=torch.tensor([2.0, 3.0]))
    z = flow.base.sample(7)
    paths = flow.paths(z, [0.0, 0.5, 1.0])
    assert paths.shape == (3, 7, 2)
    torch.testing.assert_close(paths[0], z * torch.tensor([2.0, 3.0]) + torch.tensor([5.0, 0.0]))
    torch.testing.assert_close(paths[-1], flow.inverse(z), rtol=1e-4, atol=1e-4)


def test_weights_are_stored_once():
    names = list(make_flow(2, hidden=(8,), mean=torch.zeros(2), std=torch.ones(2)).state_dict())
    assert sum("layers.0.weight" in name for name in names) == 1
    assert "transform.transforms.0.mean" in names


def test_several_flows_one_after_the_other():
    flow = make_flow(2, hidden=(8,), flows=3, penalties=("kinetic",), solver=TIGHT).double()
    x = torch.randn(5, 2).double()
    torch.testing.assert_close(flow.inverse(flow(x)), x, rtol=1e-6, atol=1e-6)
    parts, log_det, at = flow.transform.parts, 0, x
    for part in parts:
        found = part.to_base(at)
        at, log_det = found.value, log_det + found.log_det
    torch.testing.assert_close(flow.log_prob(x), flow.base.log_prob(at) + log_det)
    assert flow.transform.to_base(x).penalties["kinetic"].shape == (5,)
    with pytest.raises(ConfigurationError, match="one continuous transform"):
        _ = flow.continuous


# As one of PyTorch's distributions


def test_distribution_without_context():
    density = make_flow(2, hidden=(8,)).distribution()
    assert density.batch_shape == ()
    assert density.event_shape == (2,)
    x = density.sample((3, 4))
    assert x.shape == (3, 4, 2)
    torch.testing.assert_close(density.log_prob(x)[1], density.log_prob(x[1]), rtol=1e-4, atol=1e-4)
    assert density.log_prob(x[0, 0]).shape == ()
    with pytest.raises(ArgumentError, match="no batches"):
        density.expand((5,))


def test_distribution_with_context():
    flow = make_flow(2, hidden=(8,), context=3)
    context = torch.randn(5, 3)
    density = flow.distribution(context)
    assert density.batch_shape == (5,)
    x, log_prob = density.rsample_and_log_prob((4,))
    assert x.shape == (4, 5, 2)
    assert x.requires_grad
    torch.testing.assert_close(log_prob, density.log_prob(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(density.log_prob(x)[2, 3], flow.log_prob(x[2, 3:4], context[3])[0], rtol=1e-3, atol=1e-3)
    assert density.expand((2, 5)).sample().shape == (2, 5, 2)
    assert density.rsample((2,)).requires_grad


# Bases and what stands between


def test_the_mixture_is_a_density_and_its_samples_have_it():
    base = make_base("eight_gaussians", (2,))
    side = torch.linspace(-8, 8, 401)
    mass = base.log_prob(torch.cartesian_prod(side, side)).exp().sum() * (side[1] - side[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)
    x = base.sample(20_000, torch.Generator().manual_seed(0))
    assert x.norm(dim=1).mean().item() == pytest.approx(5, abs=0.05)
    assert x.var(0).tolist() == pytest.approx([12.6, 12.6], rel=0.03)  # 25 / 2 + 0.1


def test_standardisation_is_part_of_the_density():
    mean, std = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0])
    flow = Flow(Standardise(mean, std), make_base("gaussian", (2,)))
    x = torch.randn(5, 2)
    expected = torch.distributions.Normal(mean, std).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x), expected)
    torch.testing.assert_close(flow.inverse(flow(x)), x)


# What cannot be


def a_flow(**options):
    return make_flow(2, hidden=(8,), **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: a_flow().log_prob(torch.zeros(3, 4)), ArgumentError, r"shape \(n, 2\), got \(3, 4\)"),
        (lambda: a_flow().log_prob(torch.zeros(3, 2, dtype=torch.long)), ArgumentError, "floats"),
        (lambda: a_flow().log_prob([[0.0, 0.0]]), ArgumentError, "got list"),
        (lambda: a_flow(context=1).log_prob(torch.zeros(3, 2), torch.zeros(4, 1)), ArgumentError, "of 4 rows"),
        (lambda: a_flow(context=1).log_prob(torch.zeros(3, 2), torch.zeros(3, 2)), ArgumentError, r"\(n, 1\)"),
        (lambda: a_flow(context=1).log_prob(torch.zeros(3, 2)), ArgumentError, "got none"),
        (lambda: a_flow().log_prob(torch.zeros(3, 2), torch.zeros(3, 1)), ArgumentError, "takes no context"),
        (lambda: a_flow().sample(0), ConfigurationError, "number"),
        (lambda: a_flow(base="uniform"), ConfigurationError, "gaussian"),
        (lambda: make_base("eight_gaussians", (3,)), ConfigurationError, "two numbers"),
        (lambda: a_flow(penalties=("hjb",)), ConfigurationError, "potential"),
        (lambda: a_flow(penalties=("kinetik",)), ConfigurationError, "kinetic"),
        (lambda: a_flow(horizon=0.0), ConfigurationError, "above zero"),
        (lambda: a_flow(flows=0), ConfigurationError, "at least 1"),
        (lambda: Standardise([0.0, 0.0], [1.0, 0.0]), ConfigurationError, "constant"),
        (lambda: Compose([nn.Linear(2, 2)]), ArgumentError, "transform is expected"),
        (lambda: a_flow().log_prob(torch.full((3, 2), math.nan)), SolverError, "finite"),
        (lambda: a_flow().distribution([1.0]), ArgumentError, "must be a tensor"),
    ],
)
def test_what_cannot_be_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_field_of_another_shape_is_said():
    class Wide(nn.Module):
        def forward(self, t, x):
            return torch.cat((x, x), -1)

    flow = Flow(ContinuousTransform(Wide(), trace="exact"), make_base("gaussian", (2,)))
    with pytest.raises(ConfigurationError, match=r"\(3, 2\)"):
        flow.log_prob(torch.randn(3, 2))
