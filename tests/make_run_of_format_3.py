"""Writes ``fixtures/run_of_format_3`` and what is expected of it: a run that stopped in its second epoch.

It was made once, and is not made anew: it is there to be read by all later versions. A format of files that they write
gets a fixture of its own, by a copy of this program.

    python -m tests.make_run_of_format_3
"""

import contextlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from sklearn.datasets import load_digits

from dynamicblocks.cli.main import main
from dynamicblocks.network import num_weights
from dynamicblocks.tasks import DataConfig, ModelConfig, load_run
from dynamicblocks.training import HardwareConfig, OptimizerConfig
from dynamicblocks.training.config import RefineConfig
from tests.training.small_task import stopped
from tests.trainings import classification

FIXTURES = Path(__file__).absolute().with_name("fixtures")
NAME = "run_of_format_3"
FEW = 8


def configured():
    """Task and configuration of the run."""
    return classification(
        data=DataConfig(train_images=640, batch_size=32),
        model=ModelConfig(
            name="dynamicnet", widths=(4,), units=2, layer="preact_single", controls="linear", integrator="midpoint"
        ),
        epochs=2,
        seed=3,
        checkpoint_steps=4,
        refine=RefineConfig(epochs=(1,)),
        optimizer=OptimizerConfig(lr=0.2, ema=0.8, accumulate=2),
        hardware=HardwareConfig("cpu", precision="32-true", compile=False, channels_last=False),
        output="runs",
        run=NAME,
    )


def images():
    """Some digits, straight from their source."""
    return torch.tensor(load_digits().images[:FEW], dtype=torch.float32)[:, None] / 16


def lines(path):
    """The entries of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def found(run):
    """What a copy of the run says of images, is evaluated as, and comes to when it is resumed."""
    loaded = load_run(run)
    said = loaded.predict(images())
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--split", "validation"]) == 0
    assert main(["evaluate", str(run), "--accelerator", "cpu", "--integrator", "rk4", "--steps", "8"]) == 0
    evaluations = lines(run / "evaluations.jsonl")
    assert main(["train", "--resume", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    return {
        "weights": num_weights(loaded.net),
        "labels": said.labels.tolist(),
        "probabilities": said.probabilities.tolist(),
        "evaluations": [{name: entry[name] for name in ("integrator", "loss", "accuracy")} for entry in evaluations],
        "resumed": {
            **{name: result[name] for name in ("kept_epoch", "weights", "test_loss", "test_accuracy")},
            **{name: lines(run / "metrics.jsonl")[-1][name] for name in ("epoch", "loss", "validation_loss")},
        },
    }


def written():
    """Write both. The run is trained in a folder of its own, so that its files tell nothing of this machine's."""
    run = FIXTURES / NAME
    shutil.rmtree(run, ignore_errors=True)
    with TemporaryDirectory() as place, contextlib.chdir(place):
        shutil.copytree(stopped(*configured(), 29, pytest.MonkeyPatch()).folder.path, run)
        expected = found(shutil.copytree(run, Path(place, "copy")))
    (FIXTURES / f"{NAME}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    written()
