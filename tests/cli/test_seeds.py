"""Trainings with several seeds: each is the training of its seed alone, and what is not through goes on."""

import errno
import json
import shutil
from statistics import mean, stdev

import pytest
import torch
from safetensors.torch import load_file

from dynamicblocks.cli.main import main
from dynamicblocks.cli.seeds import SeedFolder
from dynamicblocks.interruption import ASKED_TO_END, Interrupted
from dynamicblocks.training import Training

SMALL = ("--model.name", "dynamicnet", "--model.widths", "[2]", "--model.units", "1", "--model.norm", "none")
SHORT = (
    "--epochs",
    "2",
    "--max_steps",
    "3",
    "--data.train_images",
    "100",
    "--optimizer.warmup",
    "0",
    "--table",
    "none",
)
FLAGS = (*SMALL, *SHORT, "--hardware.accelerator", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two seeds in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *FLAGS, "--output", str(folder), "--run", "many", "--seeds", "0", "1"]) == 0
    return folder / "many"


@pytest.fixture
def copied(made, tmp_path):
    """The same, elsewhere."""
    return shutil.copytree(made, tmp_path / "many")


def measured(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    timed = ("seconds", "images_per_second")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def same_weights(one, other):
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_seed_among_others_is_that_seed_alone(made, tmp_path):
    assert main(["train", *FLAGS, "--output", str(tmp_path), "--run", "one", "--seed", "1"]) == 0
    assert same_weights(made / "seed-1", tmp_path / "one")
    assert measured(made / "seed-1") == measured(tmp_path / "one")
    assert not same_weights(made / "seed-0", made / "seed-1")


def test_figures_have_mean_and_deviation(made):
    found = json.loads((made / "result.json").read_text())
    assert found["seeds"] == [0, 1]
    for name in ("test_accuracy", "test_loss", "validation_loss"):
        values = [json.loads((made / f"seed-{seed}" / "result.json").read_text())[name] for seed in (0, 1)]
        assert found["figures"][name] == {"mean": mean(values), "standard_deviation": stdev(values), "values": values}
    assert "test_images" not in found["figures"]


def test_what_is_finished_is_skipped_and_the_rest_goes_on(made, copied, capsys):
    (copied / "result.json").unlink()
    (copied / "seed-1" / "result.json").unlink()
    shutil.rmtree(copied / "seed-0")
    again = ["train", *FLAGS, "--output", str(copied.parent), "--run", "many", "--seeds", "0", "1"]
    assert main(["train", "--resume", str(copied)]) == 0
    assert json.loads((copied / "result.json").read_text()) == json.loads((made / "result.json").read_text())
    for seed in ("seed-0", "seed-1"):
        assert same_weights(copied / seed, made / seed)
        assert measured(copied / seed) == measured(made / seed)
    capsys.readouterr()
    before = (copied / "seed-0" / "checkpoint.safetensors").stat().st_mtime_ns
    assert main(again) == 0
    assert (copied / "seed-0" / "checkpoint.safetensors").stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert "Seed 1 (2 of 2) is finished" in said
    assert "standard deviation" in said


def test_a_signal_ends_all_with_the_line_that_resumes_all(copied, monkeypatch, capsys):
    shutil.rmtree(copied / "seed-1")

    def interrupted(_):
        raise Interrupted(ASKED_TO_END[1], "of one")

    monkeypatch.setattr(Training, "run", interrupted)
    assert main(["train", "--resume", str(copied)]) == 143
    assert capsys.readouterr().err.endswith(f"Go on with: dynamicblocks train --resume {copied}\n")


def test_other_options_are_not_mixed_in(copied, capsys):
    place = ("--output", str(copied.parent), "--run", "many", "--seeds", "0", "1", "2")
    assert main(["train", *FLAGS, *place, "--optimizer.lr", "0.5"]) == 2
    assert "exists already with optimizer.lr" in capsys.readouterr().err
    assert not (copied / "seed-2").exists()


def test_a_folder_of_seeds_is_no_run(made, capsys):
    for command in ("evaluate", "converge", "compress", "operators"):
        assert main([command, str(made)]) == 2
        assert f"is a folder of seeds; give one of them, such as {made / 'seed-0'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--seeds", "--seeds expects whole numbers"),
        ("--seeds 0 -1", "--seeds expects whole numbers of at least 0 such as 0 1 2, got 0 -1"),
        ("--seeds x", "got x"),
        ("--seeds 1 2 1", "--seeds names 1 twice"),
        ("--seeds 0 --seed 1", "--seeds and --seed"),
        ("--seeds 0 --resume runs/mine", "leave out --seeds"),
        ("--seeds 0 --hardware.devices 2", "--seed"),
    ],
)
def test_seeds_that_make_no_sense(flags, said, tmp_path, capsys):
    try:
        code = main(["train", *flags.split(), "--output", str(tmp_path / "runs")])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_they_are_listed_together(made, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["runs", str(made.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("many")] == ["many", "many/seed-0", "many/seed-1"]
    assert "2 of 2 seeds" in lines[4]
    assert "±" in lines[4]
    assert lines[2].split()[-1] == "seed"  # the one option that differs


def test_a_figure_that_came_to_nothing_is_left_out_of_the_mean(copied, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = copied / "seed-0" / "result.json"
    other = json.loads((copied / "seed-1" / "result.json").read_text())["test_loss"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "test_loss": None}))
    assert main(["train", "--resume", str(copied)]) == 0
    found = json.loads((copied / "result.json").read_text())["figures"]
    assert found["test_loss"] == {"mean": other, "standard_deviation": None, "values": [None, other]}
    assert len(found["test_accuracy"]["values"]) == 2
    assert main(["runs", str(copied.parent)]) == 0
    capsys.readouterr()


def test_the_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SeedFolder, "_write_seeds", full)
        assert main(["train", *FLAGS, "--output", str(tmp_path / "runs"), "--run", "many", "--seeds", "0"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'runs' / 'many'} cannot be made: No space left on device\n"
    assert not (tmp_path / "runs").exists()
