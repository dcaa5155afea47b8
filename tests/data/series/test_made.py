"""Series that are made: what is published of them, the truth, equal data for equal seeds."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.integrate import solve_ivp

import dynamicblocks as db
from dynamicblocks.data.series import load_series, made_series


def test_spirals_are_as_published():
    data = load_series("spirals", points=30)
    train, test = data.train, data.test
    assert train.values.shape == (1000, 30, 2)
    assert torch.bincount(train.labels).tolist() == [500, 500]
    assert bool((train.times.diff() > 0).all())
    assert 0 <= train.times.min() < train.times.max() <= 99 * 6 * math.pi / 999 + 1e-12
    noise = train.values - data.truth(train)
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(noise.mean().item()) < 0.01
    starts = data.truth(replace(train, times=torch.zeros(1000, 1)))
    assert len(torch.unique(starts[:, 0, 0])) > 500
    assert test.seen.sum(1).tolist() == [30] * 200
    assert test.wanted.sum(1).tolist() == [100] * 200
    assert not bool((test.seen & test.wanted).any())
    later = test.wanted
    assert torch.equal(test.values[later], data.truth(test)[later])
    assert (test.values - data.truth(test))[test.seen].std().item() == pytest.approx(0.3, rel=0.03)
    validation = data.validation
    assert (validation.values - data.truth(validation))[validation.wanted].std().item() == pytest.approx(0.3, rel=0.03)
    assert "seed 0" in data.note


def test_spirals_turn_as_their_labels_say():
    data = load_series("spirals", noise=0.0, series=40)
    centre = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    around = data.train.values - centre[data.train.labels][:, None]
    first, second = around[:, :-1], around[:, 1:]
    turn = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    assert data.train.classes == ("clockwise", "counterclockwise")
    assert torch.equal(turn.mean(1) > 0, data.train.labels == 1)


@pytest.mark.parametrize("name", list(made_series))
def test_equal_seeds_make_equal_data_and_others_do_not(name):
    wishes = {"noise": 0.1, "points": 20} | ({} if name == "spiral" else {"series": 3})
    first, again, other = (load_series(name, seed=seed, **wishes) for seed in (1, 1, 2))
    for part in ("train", "validation", "test"):
        mine, same = getattr(first, part), getattr(again, part)
        assert torch.equal(mine.values, same.values)
        assert torch.equal(mine.times, same.times)
    assert not torch.equal(first.train.values, other.train.values)
    assert not torch.equal(first.train.values[:1], first.validation.values[:1, : first.train.values.shape[1]])


def test_fewer_points_and_fewer_series_are_some_of_the_same():
    many, few = (load_series("spirals", points=points, series=number) for points, number in ((100, 6), (30, 3)))
    assert torch.equal(many.truth(many.train)[:3, 0], few.truth(replace(few.train, times=torch.zeros(3, 1)))[:, 0])


def test_periodic_series_have_irregular_times_and_their_noise():
    data = load_series("periodic", series=200)
    assert data.train.values.shape == (200, 100, 1)
    assert data.train.times.min() >= 0
    assert data.train.times.max() <= 5
    assert bool((data.train.times.float().diff() > 0).all())
    assert (data.train.values - data.truth(data.train)).std().item() == pytest.approx(0.1, rel=0.05)
    assert data.truth(data.train).abs().max() <= 1


def test_lotka_volterra_is_what_scipy_solves():
    data = load_series("lotka_volterra", series=2, noise=0.0, points=11)
    start = data.train.values[0, 0]

    def field(_, y):
        return [1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]]

    there = solve_ivp(field, (0, 10), start.tolist(), rtol=1e-11, atol=1e-12, t_eval=data.train.times[0].numpy())
    assert torch.allclose(data.train.values[0], torch.from_numpy(there.y.T), atol=1e-7)
    assert torch.allclose(data.truth(data.train), data.train.values, atol=1e-8)


def test_the_spiral_is_the_one_that_scipy_solves():
    data = load_series("spiral")
    matrix = [[-0.1, 2.0], [-2.0, -0.1]]

    def field(_, y):
        return [sum(y[row] ** 3 * matrix[row][column] for row in range(2)) for column in range(2)]

    there = solve_ivp(field, (0, 25), [2.0, 0.0], rtol=1e-11, atol=1e-12, t_eval=data.train.times[0].numpy())
    assert data.train.values.shape == (1, 1000, 2)
    assert torch.allclose(data.train.values[0], torch.from_numpy(there.y.T), atol=1e-7)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("spirlas", {}, "unknown set of series 'spirlas'; did you mean 'spirals'"),
        ("a.csv", {}, "did you mean csv:a.csv"),
        ("csv:", {}, "unknown set of series"),
        ("spirals", {"points": 101}, "at most the 100 times"),
        ("spirals", {"points": 1}, r"data.points must be a whole number of at least 2"),
        ("spirals", {"noise": -1.0}, "data.noise"),
        ("spirals", {"noise": math.nan}, "data.noise"),
        ("spirals", {"validation": 1.0}, r"data.validation must be a share, in \(0, 1\)"),
        ("spirals", {"label": "kind"}, "names of columns are of files"),
        ("periodic", {"points": 5001}, "at most 5000"),
        ("spiral", {"series": 2}, "one trajectory"),
        ("csv:a.csv", {"points": 3}, "data.points is of series that are made"),
    ],
)
def test_what_cannot_be_made_is_told(name, more, said):
    with pytest.raises(db.ConfigurationError, match=said):
        load_series(name, **more)
