"""What flows are trained by: pairings beside brute force, the matched velocity, distances, energies."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torch import nn

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows import (
    ContinuousTransform,
    Flow,
    FlowMatching,
    make_base,
    make_flow,
    negative_log_likelihood,
    pairs,
    path_energy,
    wasserstein2,
)
from dynamicblocks.functional import Solver


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def cost(x0, x1):
    return (x0 - x1).square().flatten(1).sum().item()


def test_pairs_are_the_best_of_all_permutations():
    x0, x1 = torch.randn(6, 2, 3), torch.randn(6, 2, 3)
    best = min(cost(x0[list(order)], x1) for order in permutations(range(6)))
    assert cost(x0[pairs(x0, x1)], x1) == pytest.approx(best, rel=1e-6)


def test_pairs_stay_within_their_context():
    x0, x1 = torch.randn(40, 2), torch.randn(40, 2)
    context = torch.randint(3, (40, 1)).float()
    found = pairs(x0, x1, context)
    assert sorted(found.tolist()) == list(range(40))
    for value in range(3):
        rows = (context[:, 0] == value).nonzero()[:, 0]
        mine = found[rows]
        assert set(mine.tolist()) == set(rows.tolist())
        apart = (x1[rows][:, None] - x0[rows][None]).square().sum(-1).numpy()
        expected = apart[linear_sum_assignment(apart)].sum()
        assert cost(x0[mine], x1[rows]) == pytest.approx(float(expected), rel=1e-5)


def test_conditions_keep_the_whole_base():
    """Whatever the condition, its base samples are drawn from all of the base: plain pairing would split it."""
    x1 = torch.randn(400, 2) * 0.1
    context = (torch.arange(400) % 2).float()[:, None]
    x1[:, 0] += 10 * (context[:, 0] - 0.5)
    x0 = torch.randn(400, 2)
    within = x0[pairs(x0, x1, context)]
    assert abs(within[context[:, 0] == 1, 0].mean().item()) < 0.2
    over_all = x0[pairs(x0, x1)]
    assert over_all[context[:, 0] == 1, 0].mean().item() > 0.6


def test_pairs_of_other_numbers_are_refused():
    with pytest.raises(ArgumentError, match="as many base samples"):
        pairs(torch.zeros(3, 2), torch.zeros(4, 2))


class Straight(nn.Module):
    """The velocity that carries the normal base to a normal distribution elsewhere, when pairs are optimal."""

    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, t, x):
        assert t.shape in ((), (len(x),))
        return self.shift.expand_as(x)


def straight(shift, horizon=1.0):
    transform = ContinuousTransform(
        Straight(shift), horizon=horizon, trace="exact", solver=Solver("euler", step_size=0.1)
    )
    return Flow(transform, make_base("gaussian", (2,)))


@pytest.mark.parametrize("horizon", [1.0, 0.5])
def test_optimal_pairs_leave_little_of_the_error_of_a_straight_flow(horizon):
    flow = straight([6 / horizon, -2 / horizon], horizon)
    data = torch.randn(1000, 2) + torch.tensor([6.0, -2.0])
    ot = FlowMatching(sigma=0.0, pairing="ot")(flow, data).mean().item()
    independent = FlowMatching(sigma=0.0)(flow, data).mean().item()
    # Of x1 - x0 with independent normal parts: variance 2, in units of the horizon.
    assert independent == pytest.approx(2 / horizon**2, rel=0.1)
    assert ot < 0.03 / horizon**2


def test_the_best_velocity_is_that_of_the_means():
    """For given data and base the loss has its least at the mean of x1 - x0."""
    flow = straight([0.0, 0.0])
    data = torch.randn(4000, 2) + torch.tensor([6.0, -2.0])
    loss = FlowMatching()(flow, data, generator=torch.Generator().manual_seed(0)).mean()
    (found,) = torch.autograd.grad(loss, flow.continuous.field.module.shift)
    # d/dv mean over numbers of (v - (x1 - x0))^2 at v = 0
    assert found.tolist() == pytest.approx([-6, 2], abs=0.15)


def test_flow_matching_moves_no_random_numbers_of_a_caller_with_a_generator():
    flow = make_flow(2, hidden=(8,))
    before = torch.get_rng_state()
    first = FlowMatching(pairing="ot")(flow, torch.randn(9, 2, generator=torch.Generator().manual_seed(3)),
                                       generator=torch.Generator().manual_seed(1))  # fmt: skip
    assert torch.equal(before, torch.get_rng_state())
    again = FlowMatching(pairing="ot")(flow, torch.randn(9, 2, generator=torch.Generator().manual_seed(3)),
                                       generator=torch.Generator().manual_seed(1))  # fmt: skip
    assert torch.equal(first, again)


def test_flow_matching_learns_a_shift_that_likelihood_confirms():
    flow = straight([0.0, 0.0])
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.1)
    data = torch.randn(2000, 2) + torch.tensor([2.0, -1.0])
    for _ in range(100):
        optimizer.zero_grad()
        FlowMatching(sigma=0.0, pairing="ot")(flow, data[torch.randint(2000, (128,))]).mean().backward()
        optimizer.step()
    exact = -torch.distributions.Normal(torch.tensor([2.0, -1.0]), 1.0).log_prob(data).sum(1).mean()
    nll, penalty = negative_log_likelihood(flow, data)
    assert nll.mean().item() == pytest.approx(exact.item(), abs=0.02)
    assert not penalty.any()


def test_penalties_are_weighted():
    flow = make_flow(2, hidden=(8,), penalties=("kinetic", "jacobian"))
    x = torch.randn(5, 2)
    found = flow.transform.to_base(x).penalties
    _, penalty = negative_log_likelihood(flow, x, weights={"kinetic": 0.5, "jacobian": 2.0})
    torch.testing.assert_close(penalty, 0.5 * found["kinetic"] + 2.0 * found["jacobian"])
    with pytest.raises(ConfigurationError, match="hjb"):
        negative_log_likelihood(flow, x, weights={"hjb": 1.0})


def test_wasserstein2_in_one_dimension_is_that_of_sorted_samples():
    x, y = torch.randn(300, 1), 2 * torch.randn(300, 1) + 1
    expected = (x.sort(0).values - y.sort(0).values).square().mean().sqrt().item()
    assert wasserstein2(x, y) == pytest.approx(expected, rel=1e-5)
    assert wasserstein2(x, y) >= wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()) - 1e-6
    assert wasserstein2(x, x[torch.randperm(300)]) == 0
    with pytest.raises(ArgumentError, match="as many samples"):
        wasserstein2(x, y[:-1])


@pytest.mark.parametrize("horizon", [1.0, 2.0])
def test_energy_of_straight_ways_is_the_squared_distance(horizon):
    flow = straight([3.0 / horizon, 4.0 / horizon], horizon)
    assert path_energy(flow, 10) == pytest.approx(25, rel=1e-5)
    with pytest.raises(ArgumentError, match="even number"):
        path_energy(flow, 10, steps=3)


def test_energy_of_a_growing_flow_is_its_integral():
    class Growing(nn.Module):
        def forward(self, t, x):
            return t * x

    flow = Flow(ContinuousTransform(Growing(), trace="exact"), make_base("gaussian", (2,)))
    z = flow.base.sample(500, torch.Generator().manual_seed(0))
    times = np.linspace(0, 1, 4001)
    expected = np.trapezoid(times**2 * np.exp(times**2), times) * z.square().sum(1).mean().item()
    assert path_energy(flow, 500, generator=torch.Generator().manual_seed(0)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", [{"sigma": -1.0}, {"pairing": "sinkhorn"}])
def test_options_that_cannot_be(options):
    with pytest.raises(ConfigurationError):
        FlowMatching(**options)


def test_a_field_without_a_time_for_each_sample_is_said():
    class Flat(nn.Module):
        def forward(self, t, x):
            return x.flatten()

    flow = Flow(ContinuousTransform(Flat(), trace="exact"), make_base("gaussian", (2,)))
    with pytest.raises(ArgumentError, match="a time for each sample"):
        FlowMatching()(flow, torch.randn(5, 2))
