"""Segmentation from the command line."""

import json

import pytest

from dynamicblocks.cli import compress
from dynamicblocks.cli.main import main
from tests.mask_files import write_pairs

MODEL = ["--model.name", "imexnet", "--model.widths", "[4]", "--model.units", "2"]
MODEL += ["--model.integrator", "imex(balanced=True)"]
FLAGS = ["--task", "segment", *MODEL, "--data.batch_size", "4", "--epochs", "2", "--hardware.precision", "32-true"]
FLAGS += ["--hardware.channels_last", "false", "--hardware.compile", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder, by the command line."""
    root = tmp_path_factory.mktemp("masks")
    write_pairs(root, ("train", "val", "test"), count=8)
    flags = [*FLAGS, "--data.name", f"folder:{root}", "--class_weights", "[0.5,1,2]", "--hardware.workers", "1"]
    assert main(["train", *flags, "--output", str(root), "--run", "run"]) == 0
    return root / "run"


def test_a_run_is_evaluated_and_goes_on(run, capsys):
    result = json.loads((run / "result.json").read_text())
    assert main(["evaluate", str(run), "--precision", "32-true"]) == 0
    assert f"{100 * result['test_mean_iou']:.2f}%" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--steps", "4", "--integrator", "rk4"]) == 0
    # It is at its end: the test images are read again.
    assert main(["train", "--resume", str(run)]) == 0
    assert json.loads((run / "result.json").read_text())["test_loss"] == result["test_loss"]


def test_a_run_converges_and_is_compressed(run, capsys, monkeypatch):
    monkeypatch.setattr(compress, "CHANGED_SAMPLES", 16)
    assert main(["converge", str(run), "--integrators", "[euler]", "--factors", "[1,2]"]) == 0
    assert "mean IoU" in capsys.readouterr().out
    search = ["--integrators", "[euler]", "--tolerance", "90%", "--disagreement", "90%", "--batches", "1"]
    assert main(["compress", str(run), *search]) == 0
    assert main(["evaluate", f"{run}-compressed"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.name", "folder:nowhere"], "nowhere does not exist; expected a folder"),
        (["--data.name", "qtip"], "did you mean 'qtips'"),
        (["--class_weights", "[1,2]", "--data.size", "32"], "each of the 4 classes"),
        (["--data.size", "8"], "at least 32 pixels"),
        (["--model.name", "resnet20", "--model.wdths", "[4]"], "wdths"),
    ],
)
def test_what_is_wrong_is_said(flags, message, tmp_path, capsys):
    try:
        code = main(["train", "--task", "segment", *flags, "--output", str(tmp_path)])
    except SystemExit as stop:  # a flag that there is not
        code = stop.code
    assert code in (1, 2)
    assert message in capsys.readouterr().err
