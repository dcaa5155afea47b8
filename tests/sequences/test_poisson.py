"""Poisson processes beside quadrature, exact likelihoods, finite differences and counts."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import nn

import dynamicblocks as db
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.sequences import MLPField, PoissonProcess, Solver, with_integral
from dynamicblocks.thinning import thinned

TIGHT = Solver("dopri5", rtol=1e-10, atol=1e-11)
DOUBLE = torch.float64


class Sine(nn.Module):
    """z moves as sin(t) from zero."""

    def forward(self, t, z):
        return t.cos().expand_as(z)


def sine(scale=1.3, base=0.4, **more):
    """The rate exp(scale sin(t) + base)."""
    log_rate = nn.Linear(1, 1).double()
    with torch.no_grad():
        log_rate.weight.fill_(scale)
        log_rate.bias.fill_(base)
    more = {"solver": TIGHT, "features": 1, **more}
    return PoissonProcess(Sine(), log_rate, **more).double()


def rate_of(t):
    return math.exp(1.3 * math.sin(t) + 0.4)


def test_the_integral_is_that_of_quadrature():
    process = sine()
    for begin, end in ((0.0, 1.0), (0.5, 9.0), (3.0, 12.5)):
        expected = quad(rate_of, begin, end, epsabs=1e-12, epsrel=1e-12)[0]
        assert process.integral(begin, end).item() == pytest.approx(expected, abs=1e-6)


def test_the_integral_of_a_network_is_that_of_quadrature():
    torch.manual_seed(0)
    field, log_rate = MLPField(3, 8, time=True).double(), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for weight in field.parameters():
            weight.mul_(5)
    initial = torch.randn(2, 3, dtype=DOUBLE)
    process = PoissonProcess(field, log_rate.double(), solver=TIGHT)
    for row in range(2):

        def slope(t, z):
            with torch.no_grad():
                return field(torch.tensor(t, dtype=DOUBLE), torch.from_numpy(z)[None])[0].numpy()

        states = solve_ivp(slope, (0, 4), initial[row].numpy(), "DOP853", dense_output=True, rtol=1e-11, atol=1e-12).sol

        def rate(t, states=states):
            with torch.no_grad():
                return log_rate(torch.from_numpy(states(t))[None]).exp().item()

        expected = quad(rate, 0.5, 4.0, epsabs=1e-10, epsrel=1e-10, limit=200)[0]
        assert process.integral(0.5, 4.0, initial)[row].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_integral_is_a_state_like_others(method):
    both = with_integral(lambda t, z: -z, lambda z: z[..., 0].log())
    t = torch.linspace(0, 2, 41, dtype=DOUBLE)
    z, integral = db.solve(both, (torch.ones(3, 1, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)), t, method=method).y
    torch.testing.assert_close(integral, (1 - (-t).exp())[:, None].expand(-1, 3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z[..., 0], (-t).exp()[:, None].expand(-1, 3), rtol=1e-5, atol=1e-5)


def test_likelihoods_of_ragged_sequences():
    """Each as if it were alone; what is behind the end of one does not matter; none is a sequence, too."""
    process = sine()
    times = torch.tensor([[0.5, 1.5, 3.0], [2.0, math.nan, -7.0], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    lengths = torch.tensor([3, 1, 0])
    found = process.log_likelihood(times, lengths, 0.0, 4.0)
    integral = quad(rate_of, 0, 4)[0]
    expected = [
        sum(math.log(rate_of(t)) for t in row[:n]) - integral for row, n in zip(times.tolist(), lengths, strict=True)
    ]
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-7)
    none = process.log_likelihood(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), 0.0, 4.0)
    assert none.tolist() == pytest.approx([-integral] * 2, abs=1e-7)


def test_windows_of_their_own_and_large_times():
    """Times as of a calendar: the state begins at the origin, and a window later on."""
    origin = 1.7e9
    process = sine(origin=origin)
    times = origin + torch.tensor([[2.0, 3.0], [4.5, 0.0]], dtype=DOUBLE)
    begin, end = origin + torch.tensor([1.0, 4.0], dtype=DOUBLE), origin + torch.tensor([3.5, 6.0], dtype=DOUBLE)
    found = process(times, torch.tensor([2, 1]), begin, end)
    expected = [
        math.log(rate_of(2.0)) + math.log(rate_of(3.0)) - quad(rate_of, 1, 3.5)[0],
        math.log(rate_of(4.5)) - quad(rate_of, 4, 6)[0],
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_gradients_are_those_of_differences(gradient):
    torch.manual_seed(1)
    start = nn.Linear(1, 2).double()
    process = PoissonProcess(
        MLPField(2, 6).double(), nn.Linear(2, 1).double(), start=start,
        solver=Solver("dopri5", 1e-9, 1e-10, gradient=gradient),
    )  # fmt: skip
    times, lengths = torch.tensor([[0.3, 0.9], [0.5, 0.0]], dtype=DOUBLE), torch.tensor([2, 1])
    initial = torch.tensor([[0.2], [-1.0]], dtype=DOUBLE)

    def value():
        return process.log_likelihood(times, lengths, 0.0, 2.0, initial).sum()

    value().backward()
    for weight in (start.weight, process.equation.log_rate.bias, process.equation.field.net[0].weight):
        before, step = weight.detach().clone(), 1e-5
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                weight.view(-1)[0] = before.view(-1)[0] + sign * step
                ends.append(value().item())
            weight.copy_(before)
        assert weight.grad.view(-1)[0].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_parts_of_a_large_batch_are_as_the_whole(monkeypatch):
    initial = torch.linspace(-1, 1, 7, dtype=DOUBLE)[:, None]
    process = sine(features=None)
    times = torch.rand(7, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) * 3
    lengths = torch.tensor([5, 4, 3, 2, 1, 0, 5])
    whole = process.log_likelihood(times, lengths, 0.0, 3.0, initial)
    monkeypatch.setattr("dynamicblocks.sequences.poisson.ROOM", 40)
    torch.testing.assert_close(process.log_likelihood(times, lengths, 0.0, 3.0, initial), whole, rtol=0, atol=1e-7)


def test_samples_have_the_counts_of_the_rate():
    """Means and variances of the numbers of events in bins are both the integral of the rate there."""
    process = sine(solver=Solver())
    number, ends = 4000, torch.linspace(0, 6, 7, dtype=DOUBLE)
    times, lengths = process.sample(number, 0.0, 6.0, generator=torch.Generator().manual_seed(0))
    there = torch.arange(times.shape[1]) < lengths[:, None]
    assert bool((times.diff() > 0)[there[:, 1:]].all())
    for begin, end in pairwise(ends):
        counts = ((times >= begin) & (times < end) & there).sum(1).double()
        expected = quad(rate_of, begin, end)[0]
        # Five deviations of the mean and of the variance of Poisson counts.
        assert counts.mean().item() == pytest.approx(expected, abs=5 * math.sqrt(expected / number))
        of_variance = math.sqrt((expected + 2 * expected**2) / number)
        assert counts.var().item() == pytest.approx(expected, abs=5 * of_variance)


def test_samples_follow_from_the_generator_and_from_their_states():
    process = sine(features=None)
    initial = torch.tensor([[-3.0], [2.0]], dtype=DOUBLE)
    first, second = (process.sample(2, 0, 20, initial, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[1][0] < first[1][1]


def test_a_bound_that_a_peak_passes_is_raised():
    def peak(z):
        return 5 * torch.exp(-(((z[..., 0] - 1.003) / 0.002) ** 2))

    process = PoissonProcess(lambda t, z: torch.ones_like(z), peak, features=1).double()
    times, lengths = process.sample(300, 0.0, 2.0, generator=torch.Generator().manual_seed(0))
    near = ((times - 1.003).abs() < 0.004) & (torch.arange(times.shape[1]) < lengths[:, None])
    expected = quad(lambda t: math.exp(5 * math.exp(-(((t - 1.003) / 0.002) ** 2))), 0.999, 1.007)[0]
    assert near.sum().item() == pytest.approx(300 * expected, abs=5 * math.sqrt(300 * expected))


def test_thinning_refuses_what_it_cannot_do():
    with pytest.raises(SolverError, match="between zero and its bound"):
        thinned(lambda t: torch.full_like(t, 3.0), torch.full((4,), 2.0), 0.0, 10.0)
    with pytest.raises(ConfigurationError, match="fewer sequences"):
        thinned(torch.ones_like, torch.full((4,), 1e9), 0.0, 10.0)


@pytest.mark.parametrize(("change", "message"), [
    ({"times": torch.tensor([[5.0]])}, r"sequence 0 has an event at 5, outside its window \[0, 4\]"),
    ({"times": torch.tensor([[math.nan]])}, "sequence 0 has an event at nan"),
    ({"t1": 0.0}, r"window \[0, 0\]; it must be finite and have a length"),
    ({"t1": math.inf}, r"window \[0, inf\]; it must be finite"),
    ({"t1": torch.ones(3)}, r"t0 and t1 must be numbers, or \(1,\)"),
    ({"lengths": torch.tensor([2])}, "sequence 0 has the length 2, and there are 1 times"),
    ({"lengths": torch.tensor([-1])}, "sequence 0 has the length -1"),
    ({"lengths": torch.tensor([1.0])}, "whole numbers lengths"),
    ({"t0": -1.0}, "not before the origin 0"),
    ({"lengths": torch.tensor([1, 1])}, r"expected times \(n, longest\) and whole numbers lengths \(n,\)"),
    ({"initial": torch.ones(1, 1)}, "the first state is learnt"),
])  # fmt: skip
def test_arguments_that_cannot_be(change, message):
    given = {"times": torch.tensor([[1.0]]), "lengths": torch.tensor([1]), "t0": 0.0, "t1": 4.0, **change}
    if message.startswith("window"):
        given["times"] = torch.tensor([[0.0]])
    with pytest.raises(ConfigurationError, match=message):
        sine().log_likelihood(**given)


def test_first_states_that_cannot_be():
    process = sine(features=None)
    times, lengths = torch.tensor([[1.0]]), torch.tensor([1])
    with pytest.raises(ConfigurationError, match="give initial"):
        process.log_likelihood(times, lengths, 0.0, 4.0)
    with pytest.raises(ConfigurationError, match=r"initial must be \(1, numbers\)"):
        process.log_likelihood(times, lengths, 0.0, 4.0, torch.ones(2, 1))
    with pytest.raises(ConfigurationError, match="give one of them"):
        PoissonProcess(Sine(), nn.Linear(1, 1), features=1, start=nn.Linear(2, 1))
