"""The task on time series, from a table of one's own to predictions and new series."""

import csv
import json
import math
import random

import pytest
import torch
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.cli.sample import times_of
from dynamicblocks.data.series import SeriesSet
from dynamicblocks.errors import ConfigurationError, StorageError, UsageError
from dynamicblocks.tasks import Series, SeriesConfig, SeriesModelConfig
from dynamicblocks.tasks.series_facts import SeriesFacts
from dynamicblocks.training import TrainConfig, Training
from tests.killed_runs import assert_same_runs

SMALL = SeriesModelConfig(latent=2, hidden=4, recurrent=4, units=4, labels=True)


def write_table(path, extra=""):
    """Waves at irregular times; a third of the cells is empty; the label is the direction."""
    draw = random.Random(0)
    rows = []
    for number in range(16):
        sign = 1 if number % 2 else -1
        for time in sorted(draw.uniform(100, 104) for _ in range(6 + number % 3)):
            cells = [f"{math.cos(time):.6f}", f"{50 * sign * math.sin(time):.6f}"]
            rows.append(
                [f"s{number}", f"{time:.6f}", *(c if draw.random() > 0.3 else "" for c in cells), "+-"[sign < 0]]
            )
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "time", "x", "y", "way"], *rows])
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that went through and one that broke off after three steps and was resumed; and the table."""
    folder = tmp_path_factory.mktemp("series")
    table = write_table(folder / "waves.csv")
    task = Series(SeriesConfig(f"csv:{table}", label="way", batch_size=4), SMALL)
    quiet = {"console": Console(quiet=True), "table": "none"}

    def config(name):
        return TrainConfig(epochs=2, checkpoint_steps=1, output=str(folder), run=name)

    Training(task, config("whole"), **quiet).run()
    broken = Training(task, config("broken"), **quiet)
    step = broken._step

    def stop_after_three(batch):
        if broken.steps_done == 3:
            raise OSError("gone")
        step(batch)

    broken._step = stop_after_three
    with pytest.raises(OSError, match="gone"):
        broken.run()
    again = Series(SeriesConfig(f"csv:{table}", label="way", batch_size=4), SMALL)
    Training(again, config("broken"), resume=folder / "broken", **quiet).run()
    return folder


def test_resumed_run_is_the_same_to_the_last_bit(runs):
    assert_same_runs(runs / "whole", runs / "broken")
    assert (runs / "whole" / "series.png").stat().st_size > 10_000


def test_run_without_its_data(runs, tmp_path):
    new = write_table(tmp_path / "new.csv")
    told, drawn = tmp_path / "told.csv", tmp_path / "drawn.csv"
    run = str(runs / "whole")
    (runs / "waves.csv").rename(runs / "moved.csv")
    try:
        predict = ["predict", run, str(new), "--output", str(told), "--times", "100:106:4", "--samples", "3"]
        assert main(predict) == 0
        assert main(["sample", run, "--number", "2", "--times", "100:106:5", "--output", str(drawn)]) == 0
    finally:
        (runs / "moved.csv").rename(runs / "waves.csv")
    rows = list(csv.reader(told.read_text().splitlines()))
    assert rows[0] == ["id", "time", "x", "y", "x_std", "y_std", "label"]
    assert [row[:2] for row in rows[1:5]] == [["s0", "100"], ["s0", "102"], ["s0", "104"], ["s0", "106"]]
    assert len(rows) == 1 + 16 * 4
    assert {row[-1] for row in rows[1:]} <= {"+", "-"}
    rows = list(csv.reader(drawn.read_text().splitlines()))
    assert rows[0] == ["id", "time", "x", "y"]
    assert len(rows) == 1 + 2 * 5
    assert drawn.with_suffix(".png").exists()
    # The commands and Python say the same, and the caller's random numbers stay.
    state = torch.random.get_rng_state()
    run = db.load_run(runs / "whole")
    assert run.classes == ("+", "-")
    samples = run.sample(2, times=torch.linspace(100, 106, 5))
    assert torch.allclose(samples.values[1, 3], torch.tensor([float(x) for x in rows[9][2:]]).double(), rtol=1e-6)
    assert torch.equal(state, torch.random.get_rng_state())


def test_predictions_are_those_that_are_measured(runs):
    run = db.load_run(runs / "whole")
    test = run.task.series.test
    error = (run.predict(test).values - test.values)[test.observed & test.wanted[..., None]]
    recorded = json.loads((run.folder.path / "result.json").read_text())["test_rmse"]
    assert error.square().mean().sqrt().item() == pytest.approx(recorded, rel=1e-4)
    # A series alone, and beside the times that are asked, is told the same.
    alone = run.predict(test.select(torch.tensor([1])), times=test.times[1, :3])
    assert torch.allclose(alone.values[0], run.predict(test).values[1, :3], rtol=1e-2, atol=1e-1)


def test_times_that_are_nearly_those_of_a_series(runs):
    run = db.load_run(runs / "whole")
    one = run.task.series.test.select(torch.tensor([0]))
    own = one.times[0, :4]
    nearly = run.predict(one, times=own + 1e-9)
    assert torch.equal(nearly.times[0], own + 1e-9)
    assert torch.equal(nearly.values, run.predict(one, times=own).values)


def test_fit_takes_series_from_python(tmp_path):
    times = [torch.linspace(0, 1, 5 + row) for row in range(6)]
    series = SeriesSet.of(times, [each.square() for each in times], features=["height"])
    model = SeriesModelConfig("rnn", hidden=4)
    run = db.fit(Series(SeriesConfig(batch_size=4), model), series, epochs=1, output=tmp_path)
    assert run.task.data.name == "given"
    assert run.folder.path.parent == tmp_path
    assert run.config.optimizer.name == "adam"
    assert db.load_run(run.folder.path).predict(series, samples=2).spread.shape == (6, 10, 1)
    with pytest.raises(ConfigurationError, match="handed over in Python"):
        db.load_run(run.folder.path).task.load()
    with pytest.raises(ConfigurationError, match="no distribution of whole series"):
        run.sample(1)
    with pytest.raises(ConfigurationError, match="'epoch'"):
        db.fit(Series(), series, epoch=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"share": 1.0}, "data.share"),
        ({"how": "guess"}, "data.how"),
        ({"how": "reconstruct"}, "extrapolate"),
        ({"batch_size": 0}, "data.batch_size"),
    ],
)
def test_data_that_cannot_be(options, said):
    with pytest.raises(ConfigurationError, match=said):
        SeriesConfig(**options)


def test_bad_columns_are_told_before_a_run_begins(tmp_path):
    table = tmp_path / "flat.csv"
    table.write_text("id,time,x\n" + "".join(f"{row},{time},3\n" for row in range(6) for time in range(3)))
    for task, said in (
        (Series(SeriesConfig(f"csv:{table}")), "'x' is constant"),
        (Series(SeriesConfig(f"csv:{table}", time="when")), "when"),
        (Series(SeriesConfig("nothing")), "nothing"),
        (
            Series(model=SeriesModelConfig("latent_ode", begin="own", labels=True), data=SeriesConfig("periodic")),
            "label",
        ),
    ):
        with pytest.raises((ConfigurationError, StorageError), match=said):
            Training(task, TrainConfig(output=str(tmp_path / "runs")), console=Console(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_facts_of_files_are_checked(runs):
    good = db.load_run(runs / "whole").task.facts()
    assert SeriesFacts.of_file(good).stored() == good
    for name, wrong in (("std", [1.0, 0.0]), ("span", 0.0), ("mean", [1.0]), ("features", "xy"), ("gap", None)):
        with pytest.raises(ConfigurationError, match=name):
            SeriesFacts.of_file({**good, name: wrong})


def test_sample_checks_before_it_works(runs, tmp_path, capsys):
    taken = tmp_path / "taken.csv"
    taken.write_text("mine")
    whole = str(runs / "whole")
    for arguments, said, code in (
        ([str(tmp_path / "nowhere")], "no run folder", 1),
        ([whole, "--output", str(taken)], "exists already", 2),
        ([whole, "--output", str(tmp_path / "a.txt")], ".csv", 2),
        ([whole, "--force"], "without --output", 2),
        ([whole, "--times", "1:0:5"], "BEGIN:END:NUMBER", 2),
        ([whole, "--number", "0"], "--number", 2),
    ):
        try:
            found = main(["sample", *arguments])
        except SystemExit as stop:
            found = stop.code
        assert (found, said in capsys.readouterr().err) == (code, True), arguments
    assert taken.read_text() == "mine"
    assert times_of("-1:1:3") == [-1.0, 0.0, 1.0]
    for text in ("1", "0:1", "0:1:1", "0:1:2:3", "a:b:c", "0:inf:3"):
        with pytest.raises(UsageError):
            times_of(text)
