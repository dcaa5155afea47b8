"""The size of the next step, for one state and for a batch."""

import math

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.solving.step_control import StepControl


@pytest.mark.parametrize("control", [StepControl(), StepControl(proportional=0.4, integral=0.3), StepControl(grow=3.0)])
def test_a_batch_is_controlled_as_one_state_is(control):
    ratios = [0.3, 1e-9, 1.0, 1.4, 1e4, math.nan]
    for was_rejected in (False, True):
        one = [
            control.next_size(0.5, [each, 0.7, 0.2], 5, accepted=each <= 1, was_rejected=was_rejected)
            for each in ratios
        ]
        batch = control.next_sizes(
            torch.full((len(ratios),), 0.5, dtype=torch.float64),
            (torch.tensor(ratios, dtype=torch.float64), torch.tensor(0.7), torch.tensor(0.2)),
            5,
            torch.tensor(was_rejected),
        )
        torch.testing.assert_close(batch, torch.tensor(one, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_step_after_a_rejected_one_does_not_grow():
    usual = StepControl()
    assert usual.next_size(0.5, [1e-4], 5, accepted=True) > 1.0
    assert usual.next_size(0.5, [1e-4], 5, accepted=True, was_rejected=True) == 0.5
    assert usual.next_size(0.5, [0.0], 5, accepted=True, was_rejected=True) == 0.5
    assert usual.next_size(0.5, [40.0], 5, accepted=False, was_rejected=True) < 0.5


def kinks(t, y):
    return torch.relu(torch.sin(4 * t)) - 2 * torch.relu(y - 0.3)


@pytest.fixture(scope="module")
def exact():
    t, y0 = torch.tensor([0.0, 6.0], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)
    return t, y0, db.odeint(kinks, y0, t, rtol=1e-9, atol=1e-11)[-1]


@pytest.mark.parametrize("solve", ["odeint", "batched"])
def test_fields_with_kinks_cost_less_than_with_torchdiffeq(solve, exact):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    t, y0, end = exact
    calls = {"here": 0, "there": 0}
    for n in (3, 4, 5, 6):
        bounds = {"rtol": 10.0**-n, "atol": 10.0 ** -(n + 2), "method": "dopri5"}

        def counted(t, y, name="here"):
            calls[name] += 1
            return kinks(t, y)

        if solve == "odeint":
            y = db.odeint(counted, y0, t, **bounds)
        else:
            y = db.solve(counted, y0, t, batched=True, **bounds).y
        assert float((y[-1] - end).abs()) < 100 * bounds["rtol"]
        torchdiffeq.odeint(lambda t, y, counted=counted: counted(t, y, "there"), y0, t, **bounds)
    assert calls["here"] < 0.95 * calls["there"]
