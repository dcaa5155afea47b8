"""Runs are evaluated in the precision asked for, by default in float64 where they were trained in it."""

import json

import numpy as np
import pytest
import torch

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
        "2",
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
