"""Loggers: what they are given, that resumed runs go on, and what is said where a package is missing."""

import csv
import json
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

from dynamicblocks.errors import ConfigurationError, MissingPackageError, StorageError
from dynamicblocks.training import RunFolder
from dynamicblocks.training.loggers import Loggers, begun_loggers, check_loggers
from tests.training.small_task import Small, plan, quiet, stopped

# 6 steps an epoch, of which every second is logged here.
STEPS = 6


@pytest.fixture(autouse=True)
def _often(monkeypatch, without_manifestations):
    monkeypatch.setattr("dynamicblocks.training.loggers.EVERY", 2)


def rows(folder):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_figures_of_each_epoch_and_losses_of_some_steps(tmp_path):
    quiet(Small(), plan(tmp_path), loggers=["csv"]).run()
    found = rows(tmp_path / "run")
    losses = [row["step"] for row in found if "step/loss" in row]
    assert losses == list(range(1, 2 * STEPS, 2))
    epochs = [row for row in found if "epoch" in row]
    for row, entry in zip(epochs, RunFolder(tmp_path / "run").metrics(), strict=True):
        assert row["step"] == STEPS * (entry["epoch"] + 1)
        assert row["train/loss"] == entry["loss"]
        assert row["validation/loss"] == entry["validation_loss"]
        assert row["rate"] == entry["learning_rate"]
        assert row["samples_per_second"] == entry["samples_per_second"]


def test_losses_are_read_where_the_device_is_waited_for_in_any_case(tmp_path):
    loggers = Loggers(["csv"], tmp_path)
    loggers.begin(0)
    loss = torch.tensor(1.0, requires_grad=True)
    loggers.loss(0, loss)
    loggers.loss(1, loss)
    with torch.no_grad():
        loss.fill_(7.0)  # as a compiled step does, which writes the next loss to the same place
    loggers.loss(2, loss)
    assert not (tmp_path / "csv").exists()
    loggers.finish()
    assert rows(tmp_path) == [{"step": 1, "step/loss": 1.0}, {"step": 3, "step/loss": 7.0}]


@pytest.mark.parametrize("again", [[], ["csv"]])
def test_a_resumed_run_goes_on_with_the_loggers_of_before(tmp_path, monkeypatch, again):
    quiet(Small(), plan(tmp_path, "whole"), loggers=["csv"]).run()
    with monkeypatch.context() as patch:
        patch.setattr("dynamicblocks.training.loggers.EVERY", 1)
        stopped(Small(), plan(tmp_path), STEPS + 3, monkeypatch, loggers=["csv"])
    assert any(row["step"] > STEPS for row in rows(tmp_path / "run"))
    quiet(Small(), plan(tmp_path), resume=tmp_path / "run", loggers=again).run()
    clock = "samples_per_second"
    whole, found = (
        [{key: row[key] for key in row if key != clock} for row in rows(tmp_path / run) if row["step"] > STEPS]
        for run in ("whole", "run")
    )
    assert sorted(found, key=str) == sorted(whole, key=str)
    # The first epoch, which was not trained again, is there as it was.
    assert [row["epoch"] for row in rows(tmp_path / "run") if "epoch" in row] == [1, 2]


def test_no_logger_writes_nothing(tmp_path):
    quiet(Small(), plan(tmp_path, epochs=1)).run()
    assert begun_loggers(tmp_path / "run") == []


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="--logger takes tensorboard, csv, wandb, one or several, got 'tb'"):
        quiet(Small(), plan(tmp_path), loggers=["tb"])
    monkeypatch.setattr("dynamicblocks.training.loggers.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(MissingPackageError, match=rf'pip install "dynamicblocks\[{name}\]"'):
            check_loggers([name])
        (tmp_path / "before" / name).mkdir(parents=True)
    # A run is resumed all the same where a package is missing that it had before.
    assert begun_loggers(tmp_path / "before") == []
    (tmp_path / "file").write_text("")
    loggers = Loggers(["csv"], tmp_path / "file")
    loggers.begin(0)
    with pytest.raises(StorageError, match="cannot be written"):
        loggers.write({"x": 1.0}, 0)
    assert not (tmp_path / "run").exists()


class Wandb(ModuleType):
    """In the place of the package."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.logged, self.ended = [], [], []

    def init(self, **options):
        self.runs.append(options)
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self, exit_code):
        self.ended.append(exit_code)


def test_weights_and_biases(tmp_path, monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("dynamicblocks.training.loggers.find_spec", lambda name: object())
    stopped(Small(), plan(tmp_path), STEPS + 3, monkeypatch, loggers=["wandb"])
    quiet(Small(), plan(tmp_path), resume=tmp_path / "run", loggers=["wandb"]).run()
    first, second = fake.runs
    assert (first["name"], first["dir"], first["resume"]) == ("run", str(tmp_path / "run"), "allow")
    assert first["config"]["epochs"] == 2
    assert first["id"] == second["id"]
    assert fake.ended == [1, 0]
    assert {step for step, metrics in fake.logged if "validation/loss" in metrics} == {STEPS, 2 * STEPS}
    json.dumps(first["config"])


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")
@pytest.mark.filterwarnings("default")
def test_tensorboard(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stopped(Small(), plan(tmp_path), STEPS + 3, monkeypatch, loggers=["tensorboard"])
    quiet(Small(), plan(tmp_path), resume=tmp_path / "run").run()
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in found.Scalars("validation/loss")] == [STEPS, 2 * STEPS]
    assert [event.step for event in found.Scalars("step/loss")] == list(range(1, 2 * STEPS, 2))
    expected = [entry["validation_loss"] for entry in RunFolder(tmp_path / "run").metrics()]
    assert [event.value for event in found.Scalars("validation/loss")] == pytest.approx(expected, rel=1e-6)
