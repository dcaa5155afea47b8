"""What is printed of results: a few lines, whatever their size."""

from typing import NamedTuple

import pytest
import torch

import dynamicblocks as db


class State(NamedTuple):
    x: torch.Tensor
    v: torch.Tensor


T = torch.linspace(0, 1, 501)


def decay(t, y):
    return -y


def short(text):
    return len(text.splitlines()) <= 10 and len(text) < 1200 and "tensor(" not in text


def test_a_solution_says_what_it_holds(float64):
    y0 = {"a": torch.ones(40, 3), "b": [State(torch.ones(2), torch.ones(1, dtype=torch.float64))]}
    field = lambda t, y: {"a": -y["a"], "b": [State(-y["b"][0].x, y["b"][0].v)]}  # noqa: E731
    text = repr(db.solve(field, y0, T))
    assert short(text)
    whole = ("501 from 0 to 1", "'a': float64 (501, 40, 3)", "State(x=float64 (501, 2)", "DONE", "rejected=0")
    for said in whole:
        assert said in text


def test_events_samples_and_failures_are_summed_up():
    event = db.solve(decay, torch.ones(100), T, event_fn=lambda t, y: y[0] - 0.5, dense=True)
    assert short(repr(event))
    assert "EVENT" in repr(event)
    assert "at t = 0.693" in repr(event)
    assert "interpolant" in repr(event)
    none = db.solve(decay, torch.ones(1), T, event_fn=lambda t, y: y[0] + 5)
    assert "event: none" in repr(none)
    many = db.solve(decay, torch.linspace(0.6, 3, 300)[:, None], T, batched=True, event_fn=lambda t, y: y[:, 0] - 0.5)
    assert short(repr(many))
    assert "of 300 samples" in repr(many)
    assert short(repr(many.statistics))
    failed = db.solve(lambda t, y: y * y, torch.full((200, 1), 2.0), T, batched=True, on_failure="return")
    assert short(repr(failed))
    assert "200 UNDERFLOW" in repr(failed) or "200 NOT_FINITE" in repr(failed)
    assert "message: 200 of 200 samples" in repr(failed)


def test_dense_solutions_and_circumstances():
    dense = db.odeint_dense(decay, torch.ones(30), 0.0, 2.0)
    assert short(repr(dense))
    assert "from 0 to 2" in repr(dense)
    assert "float32 (30,)" in repr(dense)
    with pytest.raises(db.SolveError) as caught:
        db.odeint(lambda t, y: y * y, torch.full((30,), 2.0, dtype=torch.float64), T.double())
    assert short(repr(caught.value.circumstances))
    assert "states of float64 (30,)" in repr(caught.value.circumstances)
