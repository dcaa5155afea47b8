"""Adaptive methods made algebraically reversible: what they solve, and what can be asked of them."""

import math

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.solving.adaptive_loop import Stops
from tests.optional import optional

solve_ivp = optional("scipy.integrate").solve_ivp

PAIRS = ["dopri5", "tsit5", "bosh3", "dopri8"]


def pendulum(t, y):
    return torch.stack([y[1], -torch.sin(y[0]) + torch.cos(t) / 2])


def reference(times):
    found = solve_ivp(
        lambda t, y: [y[1], -math.sin(y[0]) + math.cos(t) / 2], (0, 6), [1.0, 0.5],
        method="DOP853", t_eval=times.tolist(), rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    return torch.tensor(found.y.T)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_error_falls_with_the_tolerance_at_and_between_the_ends_of_steps(pair, float64):
    times, y0 = torch.linspace(0, 6, 31), torch.tensor([1.0, 0.5])
    wanted, errors = reference(times), []
    for rtol in (1e-4, 1e-6, 1e-8):
        found = db.solve(pendulum, y0, times, method=f"reversible('{pair}')", rtol=rtol, atol=rtol)
        usual = db.solve(pendulum, y0, times, method=pair, rtol=rtol, atol=rtol)
        errors.append((found.y - wanted).abs().max().item())
        assert errors[-1] < 10 * max((usual.y - wanted).abs().max().item(), rtol)
        assert found.statistics.accepted <= 1.2 * usual.statistics.accepted + 2
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20


@pytest.mark.parametrize("pair", PAIRS)
def test_dense_output_meets_the_outputs(pair, float64):
    times, y0 = torch.linspace(0, 6, 13), torch.tensor([1.0, 0.5])
    found = db.solve(pendulum, y0, times, method=f"reversible('{pair}', coupling=0.9)", rtol=1e-8, dense=True)
    torch.testing.assert_close(found.interpolant(times), found.y, rtol=1e-12, atol=1e-12)
    function = db.odeint_dense(pendulum, y0, 0.0, 6.0, method=f"reversible('{pair}(rtol=1e-8, atol=1e-8)')")
    torch.testing.assert_close(function(times), reference(times), rtol=0, atol=1e-5)


def test_an_event_and_time_that_runs_back(float64):
    y0 = torch.tensor([1.0, 0.0])
    turn = lambda t, y: torch.stack([y[1], -y[0]])  # noqa: E731
    for direction in (1.0, -1.0):
        time, states = db.odeint_event(
            turn, y0, torch.tensor(0.0), event_fn=lambda t, y: y[0], reverse_time=direction < 0,
            method="reversible('dopri5')", rtol=1e-9, atol=1e-9,
        )  # fmt: skip
        assert time.item() == pytest.approx(direction * math.pi / 2, abs=1e-7)
        assert states[-1][1].item() == pytest.approx(-direction, abs=1e-7)


def test_a_jump_is_seen_from_both_sides(float64):
    """At the jump the field has a value that nobody should read."""
    knot = 0.5

    def field(t, y):
        assert t != knot
        return -y if t < knot else 3 * torch.ones_like(y)

    times = torch.tensor([0.0, 1.0])
    for y0 in (torch.ones(2),):
        found = db.solve(
            field, y0, times, method="reversible('dopri5')", rtol=1e-9, atol=1e-9,
            options={"jump_t": torch.tensor([knot])},
        )  # fmt: skip
        assert found.y[-1, 0].item() == pytest.approx(math.exp(-0.5) + 1.5, abs=1e-8)
        assert found.statistics.rejected <= 2


def test_stops_know_where_the_field_jumps():
    stops = Stops(kinks=(0.5,), jumps=(1.0, 2.0))
    assert [stops.jumps_at(time) for time in (0.5, 1.0, 1.5, 2.0, 3.0)] == [False, True, False, True, False]
    assert not Stops().jumps_at(1.0)


def test_tolerances_of_the_call_or_of_the_method():
    """A bare name within takes the call's; one with arguments brings its own, and says so."""
    y0, t = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([0.0, 6.0])
    loose, tight = (
        db.solve(pendulum, y0, t, method="reversible('dopri5')", rtol=rtol, atol=rtol).statistics.accepted
        for rtol in (1e-3, 1e-9)
    )
    assert tight > 3 * loose
    with pytest.raises(db.ConfigurationError, match="rtol beside it would have no effect"):
        db.solve(pendulum, y0, t, method="reversible('dopri5(rtol=1e-3)')", rtol=1e-9)


def test_statistics_count_what_is_evaluated():
    calls = []

    def field(t, y):
        calls.append(1)
        return torch.sin(20 * t) * y

    found = db.solve(field, torch.ones(1), torch.tensor([0.0, 3.0]), method="reversible('dopri5')", rtol=1e-4)
    assert found.statistics.evaluations == len(calls)
    # Two find the first length; seven stages there and six back are an attempt.
    assert len(calls) == 2 + 13 * (found.statistics.accepted + found.statistics.rejected)
    assert found.statistics.rejected > 0


def test_the_limit_of_steps_and_values_that_are_not_finite():
    t = torch.tensor([0.0, 2.0])
    with pytest.raises(db.StepLimitError):
        db.solve(pendulum, torch.ones(2), t, method="reversible('dopri5')", rtol=1e-6, max_steps=3)
    with pytest.raises(db.SolveError):
        db.solve(lambda t, y: y**2, torch.ones(1), t, method="reversible('dopri5')")


def test_states_in_half_precision_and_nested_ones():
    y0 = {"x": torch.ones(3, dtype=torch.bfloat16), "v": torch.ones(2)}
    with pytest.warns(UserWarning, match="is taken for rtol"):
        found = db.solve(
            lambda t, y: {"x": -y["x"], "v": -y["v"]}, y0, torch.tensor([0.0, 1.0]), method="reversible('dopri5')"
        )
    assert found.y["x"].dtype == torch.bfloat16
    assert found.y["v"][-1, 0].item() == pytest.approx(math.exp(-1), abs=1e-2)


@pytest.mark.parametrize(
    ("method", "keyword"),
    [("reversible('dopri5')", "batched"), ("reversible('dopri5')", "compile"), ("reversible('rk4')", "batched")],
)
def test_loops_of_tensors_refuse_it(method, keyword):
    with pytest.raises(db.ConfigurationError, match=r"needs an explicit adaptive method such as dopri5, got rev"):
        db.solve(lambda t, y: -y, torch.ones(2, 1), torch.tensor([0.0, 1.0]), method=method, **{keyword: True})


def test_along_a_grid_its_steps_are_compiled(float64):
    """Two states are carried from step to step, and the first step begins otherwise than the next."""
    times, results = torch.linspace(0, 1, 4), []
    for compile in (False, True):
        y0 = torch.ones(2, 1, requires_grad=True)
        found = db.solve(
            lambda t, y: torch.sin(3 * t) - y * y, y0, times, method="reversible('euler')", compile=compile
        )
        found.y[-1].sum().backward()
        results.append((found.y.detach(), y0.grad, found.statistics.evaluations))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
