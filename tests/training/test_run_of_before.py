"""A run folder of an earlier version is read, evaluated and trained on as by that version.

The folder was written at commit c83273f (Python 3.11.7, PyTorch 2.13.0, one thread) by this command, which was
interrupted after the first of its two epochs:

    dynamicblocks train --run run_of_before --epochs 2 --data.batch_size 16 --data.shift 0 --optimizer.lr 0.05
        --model.name dynamicnet --model.widths "[4,8]" --model.layer preact_single --model.units 2 --model.steps 4
        --model.integrator midpoint --model.controls linear --model.gradient "checkpoint(segments=2)"
        --hardware.accelerator cpu

What is expected of it, in ``run_of_before.json``, was computed at that commit too.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.tasks import load_run

FIXTURES = Path(__file__).parents[1] / "fixtures"
BEFORE = FIXTURES / "run_of_before"
EXPECTED = json.loads((FIXTURES / "run_of_before.json").read_text())


@pytest.fixture
def run(tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(BEFORE, tmp_path / "run"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_is_loaded_with_its_five_choices():
    run = load_run(BEFORE)
    net = run.net
    assert (run.config.epochs, run.task.model.options["units"], len(run.task.images.test)) == (2, 2, 360)
    assert net.num_weights == 2430
    for block in net.blocks:
        assert isinstance(block.controls.basis, db.PiecewiseLinear)
        assert (block.steps, block.integrator.shorthand, block.gradient) == (4, "midpoint", db.Checkpoint(2))


def test_its_logits_are_those_of_before():
    net = load_run(BEFORE).net.eval()
    # Straight from the source, so that the network alone is compared.
    images = torch.tensor(load_digits().images[:8], dtype=torch.float32)[:, None] / 8 - 1
    expected = torch.tensor(EXPECTED["logits"])
    with torch.no_grad():
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    # With gradients the forward pass runs through the recomputed segments.
    torch.testing.assert_close(net(images).detach(), expected, rtol=1e-4, atol=1e-4)


def test_it_is_evaluated_as_before(run):
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--split", "validation"]) == 0
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--integrator", "rk4", "--steps", "8"]) == 0
    found = lines(run / "evaluations.jsonl")
    for entry, expected in zip(found, EXPECTED["evaluations"], strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert {name: entry[name] for name in expected if name != "loss"} == {
            name: value for name, value in expected.items() if name != "loss"
        }
    recorded = lines(run / "metrics.jsonl")[0]
    assert found[0]["accuracy"] == recorded["validation_accuracy"]


def test_it_is_trained_to_its_end_as_before(run):
    first = lines(run / "metrics.jsonl")
    assert main(["train", "--resume", str(run)]) == 0
    metrics = lines(run / "metrics.jsonl")
    assert metrics[:-1] == first
    result = json.loads((run / "result.json").read_text())
    found = {**metrics[-1], "test_loss": result["test_loss"], "test_accuracy": result["test_accuracy"]}
    expected = EXPECTED["resumed"]
    assert (found["epoch"], result["kept_epoch"]) == (1, 1)
    assert found["learning_rate"] == pytest.approx(expected["learning_rate"])
    # Eighty steps carry differences of rounding on: with convolutions of another library, losses differ by 0.003.
    for name in ("loss", "validation_loss", "test_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-2), name
    for name in ("accuracy", "validation_accuracy", "test_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=0.02), name
