"""Runs are evaluated in the precision asked for, by default in float64 where they were trained in it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dynamicblocks.cli.main import main
from dynamicblocks.tasks import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training in float64."""
    folder = tmp_path_factory.mktemp("double")
    draw = np.random.default_rng(0)
    np.savez(folder / "fields.npz", inputs=draw.normal(size=(20, 1, 8)), targets=draw.normal(size=(20, 1, 8)))
    flags = [
        "--task",
        "regress",
        "--data.name",
        f"fields:{folder / 'fields.npz'}",
        "--model.widths",
        "[2]",
        "--epochs",
        "1",
    ]
    flags += ["--hardware.precision", "64-true", "--hardware.accelerator", "cpu", "--output", str(folder)]
    assert main(["train", *flags, "--run", "run"]) == 0
    return folder / "run"


def losses(run):
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_run_in_float64_is_read_and_evaluated_in_it(run):
    assert {weight.dtype for weight in load_run(run).net.parameters()} == {torch.float64}
    assert main(["evaluate", str(run), "--accelerator", "cpu"]) == 0
    trained = json.loads((run / "result.json").read_text())["test_loss"]
    assert losses(run)[-1] == trained
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--precision", "32-true"]) == 0
    assert losses(run)[-1] != trained
    assert losses(run)[-1] == pytest.approx(trained, rel=1e-5)


def test_what_is_measured_says_in_which_precision(run):
    assert main(["converge", str(run), "--accelerator", "cpu", "--factors", "[1]"]) == 0
    assert json.loads((run / "convergence.json").read_text())["precision"] == "64-true"


@pytest.mark.slow
def test_a_compressed_run_keeps_its_type(run):
    assert main(["compress", str(run), "--accelerator", "cpu", "--to", str(run.parent / "small")]) == 0
    assert {weight.dtype for weight in load_run(run.parent / "small").net.parameters()} == {torch.float64}


@pytest.mark.parametrize("precision", ["bf16-true", pytest.param("16-true", marks=pytest.mark.slow)])
def test_a_run_in_half_precision_is_stopped_resumed_and_evaluated(precision, tmp_path, monkeypatch, capsys):
    model = ["--model.name", "dynamicnet", "--model.widths", "[2]", "--model.units", "1"]
    training = ["--epochs", "2", "--data.train_images", "100", "--optimizer.warmup", "0", "--table", "none"]
    place = ["--hardware.precision", precision, "--hardware.accelerator", "cpu", "--output", str(tmp_path)]
    assert main(["train", *model, *training, *place, "--run", "whole"]) == 0
    calls = iter(range(9))
    with monkeypatch.context() as stopped:
        stopped.setattr("dynamicblocks.training.stopping.requested", lambda: 15 if next(calls) == 1 else None)
        assert main(["train", *model, *training, *place, "--run", "parts"]) == 143
    assert main(["train", "--resume", str(tmp_path / "parts"), "--table", "none"]) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert {weight.dtype for weight in whole.values() if weight.is_floating_point()} == {
        torch.bfloat16 if precision == "bf16-true" else torch.float16
    }
    assert main(["evaluate", str(tmp_path / "parts"), "--accelerator", "cpu"]) == 0
