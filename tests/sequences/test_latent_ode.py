"""Latent ODEs: what they are given and no more, at whatever times, beside plain loops and exact values."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dynamicblocks import solve
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences import LatentODE, Solver, negative_elbo, squared_error
from dynamicblocks.sequences.elbo import kl_of_normal, log_likelihood, log_likelihood_of_times
from dynamicblocks.sequences.encoders import ODERNN, RecurrentEncoder
from dynamicblocks.sequences.forecast import Forecast
from dynamicblocks.sequences.union_of_times import states_at

EXACT = Solver(rtol=1e-9, atol=1e-10)


def series(number: int = 4, length: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Irregular series of float64, some values unseen."""
    drawn = torch.Generator().manual_seed(seed)
    times = torch.rand(number, length, generator=drawn, dtype=torch.float64).sort(1).values + 0.05
    values = torch.randn(number, length, 2, generator=drawn, dtype=torch.float64)
    seen = torch.rand(number, length, 2, generator=drawn) < 0.7
    seen[:, 0] = True
    return times, values, seen


def model(**options: object) -> LatentODE:
    torch.manual_seed(3)
    net = LatentODE(2, **{"latent": 3, "hidden": 8, "units": 8, "recurrent": 7, "solver": EXACT, **options})
    return net.double().eval()


def told(found: Forecast) -> list[Tensor]:
    return [each for each in found if each is not None]


def assert_equal(one: Forecast, other: Forecast, atol: float = 1e-7) -> None:
    for a, b in zip(told(one), told(other), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


ALL = pytest.mark.parametrize("encoder", ["ode_rnn", "rnn", "gru"])
BOTH = pytest.mark.parametrize("times", ["union", "own"])


def test_divergence_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    exact = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_of_normal(mean, log_variance), exact)


def test_bound_is_made_of_torchs_densities() -> None:
    _times, values, seen = series()
    found = Forecast(torch.randn(8, 6, 2).double(), torch.tensor([0.3, 2.0]).double(), torch.rand(8).double())
    density = Normal(found.values, found.std).log_prob(values.repeat(2, 1, 1)) * seen.repeat(2, 1, 1)
    exact = density.sum((1, 2)).reshape(2, 4).mean(0)
    torch.testing.assert_close(log_likelihood(found, values, seen), exact)
    bound = (exact - 0.5 * found.kl.reshape(2, 4).mean(0)).sum() / seen.sum()
    torch.testing.assert_close(negative_elbo(found, values, seen, 0.5), -bound)
    mean = found.values.reshape(2, 4, 6, 2).mean(0)
    torch.testing.assert_close(squared_error(found, values, seen), (mean - values)[seen].square().mean())


@ALL
def test_encoders_are_what_a_loop_over_one_series_says(encoder: str) -> None:
    net = model(encoder=encoder)
    times, values, seen = series()
    found = net.encoder(times, values, seen, net.begins(times))
    for row in range(len(times)):
        state = torch.zeros(1, 7, dtype=torch.float64)
        places = [place for place in range(times.shape[1]) if seen[row, place].any()]
        for place in reversed(places):
            mask = seen[row, place].double()
            inputs = torch.cat([values[row, place] * mask, mask])[None]
            before = [times[row, other] for other in places if other < place]
            gap = (before[-1] if before else 0.0) - times[row, place]
            if isinstance(net.encoder, ODERNN):
                state = net.encoder.cell(inputs, state)
                state = state + gap * net.encoder.field(state)
            else:
                assert isinstance(net.encoder, RecurrentEncoder)
                inputs = torch.cat([inputs, gap.reshape(1, 1)], 1)
                state = net.encoder.recurrent(inputs[None], state[None])[1][0]
        torch.testing.assert_close(found[row], state[0])


def test_state_between_observations_is_a_solution() -> None:
    encoder = ODERNN(2, 5, method="rk4", steps=4).double()
    state, gap = torch.randn(3, 5).double(), torch.tensor([[-0.5], [0.2], [0.0]]).double()
    ends = [torch.tensor([0.0, gap[row, 0]]).double() for row in (0, 1)]
    exact = [solve(lambda _, h: encoder.field(h), state[row], end).y[-1] for row, end in enumerate(ends)]
    torch.testing.assert_close(encoder.between(state, gap), torch.stack([*exact, state[2]]), rtol=0, atol=1e-5)


@ALL
@BOTH
def test_padding_and_order_change_nothing(encoder: str, times: str) -> None:
    net = model(encoder=encoder, times=times, poisson=True, classes=2)
    t, values, seen = series()
    whole = net(t, values, seen)
    longer = torch.cat([t, t[:, -1:].expand(-1, 3)], 1)
    more = torch.cat([values, torch.full((4, 3, 2), math.nan).double()], 1)
    found = net(longer, more, torch.cat([seen, torch.zeros(4, 3, 2, dtype=torch.bool)], 1))
    cut = found._replace(values=found.values[:, :6], log_rate=found.log_rate[:, :6], integral=found.integral[:, :6])
    assert_equal(cut, whole)
    order = torch.tensor([2, 0, 3, 1])
    moved = net(t[order], values[order], seen[order])
    picked = Forecast(*(each[order] if each is not None and each.shape[:1] == (4,) else each for each in whole))
    assert_equal(moved, picked)
    assert_equal(net(t[:1], values[:1], seen[:1]), Forecast(*(e[:1] if len(e) == 4 else e for e in told(whole))))


@pytest.mark.parametrize("origin", [0.0, None, 0.5])
def test_times_of_their_own_are_the_union(origin: float | None) -> None:
    t, values, seen = series()
    union, own = model(origin=origin, poisson=True), model(origin=origin, poisson=True, times="own")
    assert_equal(union(t, values, seen), own(t, values, seen))


@BOTH
def test_states_are_exact_before_and_behind_the_begin(times: str) -> None:
    begin, elapsed = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[-0.5, 0.0, 0.5, 1.0], [-0.1, 0.3, 0.3, 0.3]])
    found = states_at(EXACT, lambda _, y: -y, begin, elapsed.double(), times)
    torch.testing.assert_close(found[..., 0], begin * (-elapsed.double()).exp(), rtol=0, atol=1e-7)
    still = states_at(EXACT, lambda _, y: -y, begin, torch.zeros(2, 3).double(), times)
    torch.testing.assert_close(still, begin[:, None].expand(2, 3, 1))


@ALL
def test_hidden_values_are_not_looked_at(encoder: str) -> None:
    net = model(encoder=encoder).train()
    t, values, seen = series()
    found = []
    for hidden in (0.0, 1e6, math.nan):
        torch.manual_seed(0)
        net.zero_grad()
        loss = negative_elbo(net(t, values.where(seen, hidden), seen), values.where(seen, hidden), seen)
        loss.backward()
        found.append([loss.detach(), *(each.grad for each in net.parameters())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@ALL
def test_series_of_which_nothing_is_seen_has_a_forecast(encoder: str) -> None:
    net = model(encoder=encoder)
    t, values, seen = series()
    some = seen.clone()
    some[1] = False
    assert bool(torch.isfinite(net(t, values, some).values).all())
    torch.testing.assert_close(net(t, values, some).values[0], net(t, values, seen).values[0], rtol=0, atol=1e-7)
    assert bool(torch.isfinite(net(t, values, torch.zeros_like(seen)).values).all())


@pytest.mark.parametrize("poisson", [False, True])
def test_gradient_is_that_of_differences(poisson: bool) -> None:
    net = model(poisson=poisson).train()
    t, values, seen = series()

    def loss() -> Tensor:
        torch.manual_seed(1)
        return negative_elbo(net(t, values, seen), values, seen, 0.7)

    loss().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        place = int(weight.grad.abs().argmax())
        exact, flat = weight.grad.reshape(-1)[place].item(), weight.data.reshape(-1)
        before, h = flat[place].item(), 1e-5
        flat[place] = before + h
        up = loss().item()
        flat[place] = before - h
        down = loss().item()
        flat[place] = before
        assert (up - down) / (2 * h) == pytest.approx(exact, rel=1e-4, abs=1e-6), name


def test_gradient_modes_agree() -> None:
    t, values, seen = series()
    found = []
    for gradient in ("backprop", "checkpoint", "adjoint", "adjoint(interpolant=True)"):
        net = model(solver=Solver(rtol=1e-11, atol=1e-12, gradient=gradient), poisson=True).train()
        torch.manual_seed(1)
        negative_elbo(net(t, values, seen), values, seen).backward()
        found.append(torch.cat([each.grad.reshape(-1) for each in net.parameters() if each.grad is not None]))
    backprop, checkpoint, *adjoints = found
    torch.testing.assert_close(checkpoint, backprop, rtol=0, atol=1e-12)
    for adjoint in adjoints:
        # Of the equation, not of its steps: equal as far as the steps are exact.
        torch.testing.assert_close(adjoint, backprop, rtol=0, atol=1e-6)


def test_rate_and_its_integral() -> None:
    net = model(poisson=True)
    t, values, seen = series()
    found = net(t, values, seen)
    mean, _ = net.infer(t, values, seen)
    fine = torch.linspace(0, 1, 2001).double()[None] * t[:, -1:]
    assert net.log_rate is not None
    assert found.log_rate is not None
    rate = net.log_rate(states_at(EXACT, net.field, mean, fine)).squeeze(-1).exp()
    every = torch.cat([t[:, :1] == t[:, :1], t.diff(dim=1) > 0], 1)
    exact = found.log_rate.where(every, 0.0).sum(1) - torch.trapezoid(rate, fine, dim=1)
    torch.testing.assert_close(log_likelihood_of_times(found, every), exact, rtol=0, atol=1e-6)


@BOTH
@pytest.mark.parametrize("samples", [1, 3])
def test_only_what_is_observed_is_an_event(times: str, samples: int) -> None:
    """Times that are only asked for, between and behind, and padding change no likelihood."""
    net = model(poisson=True, times=times)
    t = torch.tensor([[0.1, 0.4, 0.7], [0.2, 0.5, 0.5]]).double()
    values, seen = torch.randn(2, 3, 2).double(), torch.ones(2, 3, 2, dtype=torch.bool)
    seen[1, 2] = False
    asked = torch.tensor([[0.1, 0.3, 0.4, 0.7, 0.9], [0.2, 0.5, 0.6, 0.8, 0.8]]).double()
    place = torch.tensor([[0, 2, 3], [0, 1, 1]])
    more, met = torch.full((2, 5, 2), math.nan).double(), torch.zeros(2, 5, 2, dtype=torch.bool)
    for row, column, of in ((0, 0, 0), (0, 2, 1), (0, 3, 2), (1, 0, 0), (1, 1, 1)):
        more[row, column], met[row, column] = values[row, of], True
    told = []
    for batch in ((t, values, seen), (asked, more, met)):
        torch.manual_seed(0)
        told.append(net(*batch, samples))
    torch.testing.assert_close(told[1].integral[:2].gather(1, place), told[0].integral[:2], rtol=0, atol=1e-6)
    few, many = (log_likelihood_of_times(f, mask.any(-1)) for f, mask in zip(told, (seen, met), strict=True))
    torch.testing.assert_close(many, few, rtol=0, atol=1e-6)
    assert few.shape == (2,)
    bounds = [negative_elbo(f, v, m) for f, v, m in zip(told, (values, more), (seen, met), strict=True)]
    torch.testing.assert_close(bounds[1], bounds[0], rtol=0, atol=1e-6)
    nothing = log_likelihood_of_times(told[0], torch.zeros(2, 3, dtype=torch.bool))
    assert nothing.tolist() == [0.0, 0.0]
    with pytest.raises(ConfigurationError, match="no rate of events"):
        log_likelihood_of_times(told[0]._replace(integral=None), seen.any(-1))


def test_draws() -> None:
    net = model(classes=3)
    t, values, seen = series()
    assert torch.equal(net(t, values, seen).values, net(t, values, seen).values)
    many = net(t, values, seen, samples=5)
    assert many.values.shape == (20, 6, 2)
    assert many.kl.shape == (20,)
    assert many.logits.shape == (20, 3)
    assert not torch.equal(many.values[:4], many.values[4:8])
    assert not torch.equal(net.train()(t, values, seen).values, net(t, values, seen).values)
    drawn = net.eval().sample(3, torch.linspace(0, 2, 7))
    assert drawn.shape == (3, 7, 2)
    assert drawn.dtype == torch.float64


def test_noise_is_fixed_or_learnt() -> None:
    assert "log_std" not in dict(model(noise=0.3).named_parameters())
    assert model(noise=0.3)(*series()).std.tolist() == pytest.approx([0.3, 0.3])
    assert "log_std" in dict(model().named_parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder": "lstm"}, "unknown encoder 'lstm'"),
        ({"times": "all"}, "unknown value of times 'all'"),
        ({"times": "own", "solver": Solver("rk4")}, "take times='union'"),
        ({"noise": 0.0}, "noise must be a positive number"),
        ({"latent": 0}, "latent must be a whole number of at least 1"),
        ({"encoder_method": "dopri5"}, "explicit Runge-Kutta method such as euler"),
        ({"origin": math.nan}, "origin must be a finite time"),
    ],
)
def test_what_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        model(**options)


def test_shapes_that_cannot_be() -> None:
    times, values, seen = series()
    with pytest.raises(ConfigurationError, match=r"seen \(n, length, 2\)"):
        model()(times, values, seen[..., 0])
    with pytest.raises(ConfigurationError, match="of type bool"):
        model()(times, values, seen.double())
