"""The recurrent network beside a plain loop, and what it may not look at."""

import pytest
import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences import Forecast
from dynamicblocks.sequences.rnn import CELLS, NextValueRNN


def series(number: int = 3, length: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    times = torch.rand(number, length, dtype=torch.float64).cumsum(1)
    values = torch.randn(number, length, 2, dtype=torch.float64)
    return times, values, torch.rand(number, length, 2) < 0.6


def model(cell: str = "gru") -> NextValueRNN:
    torch.manual_seed(1)
    return NextValueRNN(2, hidden=5, cell=cell, gap=0.5).double()


def by_hand(net: NextValueRNN, times: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """One series, the cells written out as their definitions say."""
    w_in, w_state, b_in, b_state = (getattr(net.cell, f"{a}_{b}") for a in ("weight", "bias") for b in ("ih", "hh"))
    state, entry, before, found = torch.zeros(5).double(), [0.0] * 2, float(times[0]), []
    for t, value, mask in zip(times.tolist(), values, seen, strict=True):
        x = torch.tensor([*entry, (t - before) / 0.5], dtype=torch.float64)
        into, back = w_in @ x + b_in, w_state @ state + b_state
        if len(into) == 5:
            state = torch.tanh(into + back)
        else:
            reset, update = (torch.sigmoid(into[s] + back[s]) for s in (slice(0, 5), slice(5, 10)))
            state = (1 - update) * torch.tanh(into[10:] + reset * back[10:]) + update * state
        told = net.head.weight @ state + net.head.bias
        found.append(told)
        entry = [v if m else g for v, m, g in zip(value.tolist(), mask.tolist(), told.tolist(), strict=True)]
        before = t
    return torch.stack(found)


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_a_plain_loop(cell: str) -> None:
    net, (times, values, seen) = model(cell), series()
    told = net(times, values, seen)
    assert isinstance(told, Forecast)
    assert not told.kl.any()
    for row in range(3):
        expected = by_hand(net, times[row], values[row], seen[row])
        torch.testing.assert_close(told.values[row], expected, rtol=1e-12, atol=1e-12)


def test_a_value_changes_what_follows_if_seen_and_nothing_before_or_if_not() -> None:
    net, (times, values, _) = model(), series()
    seen = torch.ones_like(values, dtype=torch.bool)
    seen[:, 4] = False
    before = net(times, values, seen).values
    values[:, 4] = torch.nan
    torch.testing.assert_close(net(times, values, seen).values, before, rtol=0, atol=0)
    values[:, 2] += 1
    after = net(times, values, seen).values
    assert torch.equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).all()


def test_gradients_are_finite_where_what_is_not_seen_is_no_number() -> None:
    net, (times, values, seen) = model(), series()
    net(times, values.where(seen, torch.nan), seen).values.sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in net.parameters())


def test_padding_changes_nothing() -> None:
    net, (times, values, seen) = model(), series()
    longer = torch.cat([times, times[:, -1:].expand(-1, 4)], 1)
    nothing = torch.zeros(3, 4, 2)
    told = net(longer, torch.cat([values, nothing.double()], 1), torch.cat([seen, nothing.bool()], 1))
    torch.testing.assert_close(told.values[:, :6], net(times, values, seen).values, rtol=0, atol=0)


def test_draws_differ_behind_the_first_value_that_was_not_seen() -> None:
    net, (times, values, _) = model().eval(), series()
    seen = (torch.arange(6) < 3)[:, None].expand_as(values)
    told = net(times, values, seen, samples=4).values.reshape(4, 3, 6, 2)
    # The first that was not seen is told by those before it, which all draws share.
    assert torch.equal(told[0, :, :4], told[1, :, :4])
    assert (told[0, :, 4:] != told[1, :, 4:]).all()


def test_the_noise_is_learnt_unless_it_is_given() -> None:
    assert NextValueRNN(2).log_std.requires_grad
    fixed = NextValueRNN(2, noise=0.5)
    assert not fixed.log_std.requires_grad
    torch.testing.assert_close(fixed.log_std.exp(), torch.full((2,), 0.5))


def test_it_has_no_whole_series_to_draw_from() -> None:
    with pytest.raises(ConfigurationError, match="no distribution of whole series"):
        NextValueRNN(2).sample(3, torch.linspace(0, 1, 5))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cell": "lstm"}, "gru"),
        ({"hidden": 0}, "hidden"),
        ({"gap": 0.0}, "gap must be above 0"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_what_cannot_be_is_said(given: dict, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        NextValueRNN(2, **given)
