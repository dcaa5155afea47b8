"""A run that knew one task, in the middle of an epoch after a refinement, goes on as with the version that wrote it.

The folder was written at commit bcfffe3 (Python 3.11.7, PyTorch 2.13.0, one thread) by this command, whose process
ended without warning when it had written its eighth checkpoint:

    dynamicblocks train --run refined_run_of_before --epochs 3 --refine.epochs 1 --checkpoint_steps 15
        --data.batch_size 32 --data.shift 1 --optimizer.lr 0.1 --optimizer.label_smoothing 0.1
        --model.name dynamicnet --model.widths "[4,8]" --model.layer preact_single --model.activation silu
        --model.boundary replicate --model.pool max --model.units 2 --model.controls linear
        --model.integrator midpoint --hardware.accelerator cpu

What is expected of it, in ``refined_run_of_before.json``, was computed at that commit too.
"""

import json
import shutil
from pathlib import Path

import pytest

import dynamicblocks as db
from dynamicblocks.cli import compress
from dynamicblocks.cli.main import main
from dynamicblocks.network import num_weights
from dynamicblocks.tasks import Classify, load_run

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPECTED = json.loads((FIXTURES / "refined_run_of_before.json").read_text())


@pytest.fixture
def run(tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(FIXTURES / "refined_run_of_before", tmp_path / "run"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_its_options_are_where_they_belong_now():
    loaded = load_run(FIXTURES / "refined_run_of_before")
    assert isinstance(loaded.task, Classify)
    assert loaded.task.label_smoothing == 0.1
    assert dict(loaded.task.model.as_dict()) == {
        "name": "dynamicnet",
        "widths": [4, 8],
        "layer": "preact_single",
        "activation": "silu",
        "boundary": "replicate",
        "controls": "linear",
        "units": 2,
        "integrator": "midpoint",
        "pool": "max",
    }
    assert (loaded.config.hardware.workers, loaded.config.refine.epochs) == (0, (1,))
    assert num_weights(loaded.net) == 3918
    assert [len(block.controls) for block in loaded.net.blocks] == [5, 5]
    assert all(isinstance(block.controls.basis, db.PiecewiseLinear) for block in loaded.net.blocks)


def test_it_is_evaluated_as_before(run):
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--split", "validation"]) == 0
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--integrator", "rk4", "--steps", "8"]) == 0
    for entry, expected in zip(lines(run / "evaluations.jsonl"), EXPECTED["evaluations"], strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert {name: entry[name] for name in expected if name != "loss"} == {
            name: value for name, value in expected.items() if name != "loss"
        }


def test_it_is_trained_to_its_end_as_before(run):
    first = lines(run / "metrics.jsonl")
    assert main(["train", "--resume", str(run)]) == 0
    metrics = lines(run / "metrics.jsonl")
    assert metrics[:-1] == first
    found, expected = {**json.loads((run / "result.json").read_text()), **metrics[-1]}, EXPECTED["resumed"]
    for name in ("epoch", "kept_epoch", "weights"):
        assert found[name] == expected[name]
    assert found["learning_rate"] == pytest.approx(expected["learning_rate"])
    # The loss of the training is that of smoothed labels, from the fifteenth of forty steps on.
    for name in ("loss", "validation_loss", "test_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-2), name
    for name in ("accuracy", "validation_accuracy", "test_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=0.02), name


def test_it_is_compressed_as_before(run, tmp_path, monkeypatch):
    monkeypatch.setattr(compress, "CHANGED_SAMPLES", 256)
    bounds = ["--tolerance", "5%", "--disagreement", "30%", "--integrators", "[euler,midpoint]"]
    target = tmp_path / "small"
    assert main(["compress", str(run), "--accelerator", "cpu", *bounds, "--to", str(target)]) == 0
    result, expected = json.loads((target / "result.json").read_text()), EXPECTED["compressed"]
    assert result["scores"].keys() == expected["scores"].keys()
    for scores, (before, _, images) in zip(result["scores"].values(), expected["scores"].values(), strict=True):
        assert scores["before"]["accuracy"] == pytest.approx(before, abs=0.01)
        assert scores["before"]["images"] == images
    as_it_was, compressed = result["test"]
    assert [as_it_was[name] for name in ("weights", "evaluations")] == expected["test"][0][:2]
    assert compressed["evaluations"] <= 8 < as_it_was["evaluations"]
    assert num_weights(load_run(target).net) == compressed["weights"] < as_it_was["weights"]
