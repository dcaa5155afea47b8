"""The task of events: trained, resumed, read without data, predicted, drawn from; what cannot be is said before."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.data.series import EventSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences import Solver
from dynamicblocks.tasks import EventConfig, EventModel, Events, load_run
from dynamicblocks.tasks.event_facts import EventFacts
from dynamicblocks.training import HardwareConfig, OptimizerConfig, Place, TrainConfig, Training

TINY = EventModel(latent=2, hidden=4)
SMALL = EventConfig("state_driven", sequences=20, t1=4.0, batch_size=8)
DOUBLE = torch.float64


def training(task, folder, **options):
    hardware = HardwareConfig(accelerator="cpu", precision="32-true", compile=False)
    usual = {"epochs": 2, "output": str(folder), "run": "run", "hardware": hardware}
    optimizer = OptimizerConfig("adam", lr=0.01, weight_decay=0.0)
    config = TrainConfig(**{"optimizer": optimizer, **usual, **options})
    return Training(task, config, console=Console(quiet=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("events")
    training(Events(SMALL, TINY), place).run()
    return place / "run"


def test_a_run_ends_with_its_figures_and_a_picture(folder):
    found = json.loads((folder / "result.json").read_text())
    assert {"test_loss", "test_excess", "test_gain"} <= found.keys()
    assert (folder / "rate.png").stat().st_size > 5000


def test_figures_are_those_of_numpy():
    """The likelihood in the data's unit of time, by a sum of rates on a fine grid."""
    task = Events(replace(SMALL, t0=2.0, t1=5.0), TINY, Solver(rtol=1e-8, atol=1e-9))
    net, place = task.build().double().eval(), Place(dtype=DOUBLE)
    sums = sum(task.score(net, batch) for batch in task.batches("test", place).evaluation())
    measured = task.measured(dict(zip(task.sums, sums.tolist(), strict=True)))
    test = task.events.test
    rates = task.predict(net, test, place).values[..., 0].log().where(test.there, 0.0).sum()
    line = torch.linspace(2, 5, 2001, dtype=DOUBLE)
    integral = torch.trapezoid(task.predict(net, test, place, times=line).values[..., 0], line).sum()
    assert measured["loss"] == pytest.approx((integral - rates).item() / test.events, abs=1e-6)
    rate = task.events.train.events / (20 * 3)
    constant = math.log(rate) - len(test) * rate * 3 / test.events
    assert measured["gain"] == pytest.approx(-measured["loss"] - constant, abs=1e-6)
    batch = next(iter(task.batches("train", place).training(0)))
    assert task.loss(net, batch)[0].item() == pytest.approx(
        -net(*batch[:2], 0.0, 10.0, batch[2]).sum().item() / (8 * rate * 3)
    )


def test_an_untrained_rate_is_about_constant_and_of_the_right_size():
    task = Events(EventConfig("sinusoidal", sequences=50), TINY)
    task.load()
    rate = task.predict(task.build(), torch.zeros(1, 0)).values
    assert rate.min() > 0.8 * task.known.rate
    assert rate.max() < 1.2 * task.known.rate


def test_a_run_that_goes_on_is_as_if_it_had_not_stopped(folder, tmp_path):
    broken = training(Events(SMALL, TINY), tmp_path, checkpoint_steps=1)
    step = broken._step

    def stop_after_three(batch):
        if broken.steps_done == 3:
            raise OSError("gone")
        step(batch)

    broken._step = stop_after_three
    with pytest.raises(OSError, match="gone"):
        broken.run()
    again = Training(Events(SMALL, TINY), broken.config, resume=tmp_path / "run", console=Console(quiet=True)).run()
    for one, other in zip(again.net.parameters(), load_run(folder).net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_is_read_without_its_data_predicts_and_draws(folder, monkeypatch):
    monkeypatch.setattr(EventConfig, "load", lambda _: pytest.fail("data are read"))
    run = load_run(folder)
    states = torch.tensor([[0.5, 0.0], [-1.0, 1.0]])
    answer = run.predict(states, times=[0.0, 2.0, 4.0])
    assert answer.values.shape == (2, 3, 1)
    events = EventSet.of([[1.0, 2.0], []], t0=0.0, t1=4.0, initial=states, columns=("angle", "velocity"))
    at_events = run.predict(events)
    assert at_events.values[0, 1, 0].item() == pytest.approx(answer.values[0, 1, 0].item(), rel=1e-4)
    assert [row[:2] for row in at_events.table()][1:] == [("0", "1"), ("0", "2"), ("1", "")]
    samples = run.sample(300, seed=3)
    assert torch.equal(samples.times, run.sample(300, seed=3).times)
    assert samples.features == ("angle", "velocity")
    rates = run.predict(samples.values[:, 0], times=np.linspace(0, 4, 101)).values[..., 0]
    expected = 4 * rates.mean().item()
    assert samples.lengths.double().mean().item() == pytest.approx(expected, abs=5 * (expected / 300) ** 0.5)
    given = run.task.sample(run.net, 2, initial=states, times=[1.0, 3.0])
    assert torch.equal(given.values[:, 0].float(), states)
    assert given.times.min() >= 1.0
    assert given.times.max() <= 3.0


@pytest.mark.parametrize(("x", "more", "message"), [
    (torch.zeros(2, 3), {}, r"numbers \(n, 2\): angle, velocity, all finite; got \(2, 3\)"),
    (torch.tensor([[1.0, math.nan]]), {}, "some not finite"),
    (torch.zeros(1, 2), {"times": [-1.0, 0.0]}, "the state begins at 0"),
    (torch.zeros(1, 2), {"times": [1.0, 1.0]}, "times must be finite numbers that increase"),
    (torch.zeros(1, 2), {"resize": True}, "not resized"),
    ("events.txt", {}, "tables of events end in"),
    (EventSet.of([[1.0, 2.0]]), {}, "trained with the columns angle, velocity, got none"),
])  # fmt: skip
def test_what_no_rate_is_told_of(folder, x, more, message):
    with pytest.raises(ConfigurationError, match=message):
        load_run(folder).predict(x, **more)


def test_windows_that_nothing_is_drawn_in(folder):
    run = load_run(folder)
    with pytest.raises(ConfigurationError, match="the beginning and the end of a window"):
        run.sample(2, times=[-1.0, 2.0])
    with pytest.raises(ConfigurationError, match="2 rows"):
        run.task.sample(run.net, 2, initial=torch.zeros(3, 2))


@pytest.mark.parametrize(("change", "message"), [
    ({"t1": 0.0}, "t1 among the facts"),
    ({"rate": 0.0}, "rate among the facts"),
    ({"columns": ["a"]}, "mean among the facts"),
    ({"std": [1.0, 0.0]}, "std among the facts"),
    ({"t0": "early"}, "t0 among the facts"),
])  # fmt: skip
def test_facts_that_are_none(change, message):
    facts = EventFacts(0.0, 4.0, 2.0, ("a", "b"), (0.0, 1.0), (1.0, 2.0))
    assert EventFacts.of_file(facts.stored()) == facts
    with pytest.raises(ConfigurationError, match=message):
        EventFacts.of_file({**facts.stored(), **change})


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Events(EventConfig("sinus")).check(), "did you mean 'sinusoidal'"),
    (lambda: EventConfig(validation=0.0), "data.validation must be a share"),
    (lambda: EventConfig(sequences=0), "data.sequences"),
    (lambda: EventModel(latent=0), "model.latent"),
    (lambda: Events(EventConfig("given")).sketch(), "handed over in Python"),
])  # fmt: skip
def test_what_cannot_be_is_said(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_events_from_python():
    draws = np.random.default_rng(0)
    events = EventSet.of([np.sort(draws.uniform(0, 3, n)) for n in (3, 0, 5, 2, 4, 1)], t0=0.0, t1=3.0)
    run = db.fit(Events(model=TINY), events, epochs=1)
    assert run.predict(torch.zeros(1, 0), times=[0.0, 3.0]).values.shape == (1, 2, 1)
    assert run.task.headline.name == "gain"
    assert run.sample(5).lengths.shape == (5,)


def test_a_table_of_ones_own_end_to_end(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    rows = [f"p{row},{time:.6f},{row % 3}" for row in range(8) for time in np.sort(draws.uniform(0, 5, 4))]
    (tmp_path / "mine.csv").write_text("\n".join(["who,when,dose", *rows, "p8,,1"]) + "\n")
    columns = ["--data.id", "who", "--data.time", "when"]
    small = ["--model.latent", "2", "--model.hidden", "4", "--epochs", "1", "--hardware.accelerator", "cpu"]
    window = ["--data.t0", "0", "--data.t1", "5"]
    assert not main(
        ["train", "--task", "events", "--data.name", "csv:mine.csv", *columns, *window, *small, "--run", "r"]
    )
    (tmp_path / "new.csv").write_text("who,when,dose\nx,1.5,2\ny,,0\n")
    assert not main(["predict", "runs/r", "new.csv", "--output", "rates.csv"])
    told = (tmp_path / "rates.csv").read_text().splitlines()
    assert told[0] == "id,time,rate"
    assert [line.rsplit(",", 1)[0] for line in told[1:]] == ["x,1.5", "y,"]
    assert not main(["predict", "runs/r", "new.csv", "--output", "line.csv", "--times", "0:5:3"])
    assert len((tmp_path / "line.csv").read_text().splitlines()) == 7
    assert not main(["sample", "runs/r", "--number", "4", "--output", "drawn.csv"])
    assert (tmp_path / "drawn.csv").read_text().startswith("id,time,dose\n")
    assert (tmp_path / "drawn.png").exists()
    capsys.readouterr()
    assert main(["train", "--task", "events", "--data.name", "csv:mine.csv", *small])
    assert "no column 'id'; there are 'who', 'when', 'dose'" in capsys.readouterr().err
