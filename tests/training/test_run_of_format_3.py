"""A run folder of format 3 is read, predicts, is evaluated and trained on as by the version that wrote it.

``tests/make_run_of_format_3.py`` wrote it, and what is expected of it (Python 3.11.7, PyTorch 2.13.0, one thread). It
stopped in its second epoch, behind a refinement.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dynamicblocks.data import ImageDataset
from dynamicblocks.network import num_weights
from dynamicblocks.tasks import Classify, load_run
from dynamicblocks.training import RunFolder
from dynamicblocks.training.storage import READ
from tests.make_run_of_format_3 import FIXTURES, NAME, configured, found, images

EXPECTED = json.loads((FIXTURES / f"{NAME}.json").read_text())


@pytest.fixture
def run(tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(FIXTURES / NAME, tmp_path / "run"))


def test_it_is_loaded_without_its_data(monkeypatch):
    monkeypatch.setattr(Classify, "load", lambda _: pytest.fail("data were read"))
    monkeypatch.setattr(ImageDataset, "__init__", lambda *_: pytest.fail("data were read"))
    run = load_run(FIXTURES / NAME)
    task, config = configured()
    assert run.task == task
    assert (run.config.optimizer, run.config.refine) == (config.optimizer, config.refine)
    assert (num_weights(run.net), run.classes) == (EXPECTED["weights"], tuple("0123456789"))
    said = run.predict(images())
    assert said.labels.tolist() == EXPECTED["labels"]
    torch.testing.assert_close(said.probabilities, torch.tensor(EXPECTED["probabilities"]), rtol=1e-4, atol=1e-4)


def test_its_record_is_read():
    record = RunFolder.open(FIXTURES / NAME).record()
    assert record["format"] == 3
    assert record["format"] in READ
    named = {"versions", "hardware", "weights", "headline", "data", "facts", "started", "device", "processes"}
    assert named <= record.keys()


def test_it_is_evaluated_and_trained_to_its_end_as_before(run):
    came = found(run)
    for entry, expected in zip(came["evaluations"], EXPECTED["evaluations"], strict=True):
        assert entry["integrator"] == expected["integrator"]
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert entry["accuracy"] == pytest.approx(expected["accuracy"], abs=0.01)
    resumed, expected = came["resumed"], EXPECTED["resumed"]
    for name in ("epoch", "kept_epoch", "weights"):
        assert resumed[name] == expected[name]
    for name in ("loss", "validation_loss", "test_loss"):
        assert resumed[name] == pytest.approx(expected[name], rel=1e-2), name
    assert resumed["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.02)
