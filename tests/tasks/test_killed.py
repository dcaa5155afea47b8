"""A training of any task that is killed twice, before and after a refinement, ends as if nothing had happened."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.killed_runs import Commands, assert_same_runs

ROOT = Path(__file__).parents[2]
OWN = ["--task", str(ROOT / "examples" / "own_task.py:NextValue")]

EVERY = 3  # steps between checkpoints
COMMON = ["--epochs", "2", "--refine.epochs", "1", "--checkpoint_steps", str(EVERY), "--hardware.accelerator", "cpu"]
ALONE = ["--table", "none"]  # equal weights give equal tables
SMALL = ["--model.name", "dynamicnet", "--model.widths", "[4]", "--model.units", "2", "--model.controls", "linear"]

# For each task: what is typed each time, the options of the training, and the steps of an epoch.
TASKS = {
    "classify": ([], [*SMALL, "--model.integrator", "midpoint", "--data.batch_size", "256"], 5),
    "segment": ([], ["--task", "segment", *SMALL, "--data.batch_size", "4", "--data.name", "folder:FOLDER/masks"], 5),
    "regress": (
        [],
        ["--task", "regress", *SMALL, "--data.batch_size", "4", "--data.name", "fields:FOLDER/fields.npz"],
        5,
    ),
    "own": (OWN, ["--batch_size", "400", "--optimizer.lr", "0.02"], 5),
}


def write_masks(folder):
    """Images with a bright half, and which half it is."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4), ("test", 4)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((12, 12), np.uint8)
            mask[:, : draw.integers(3, 9)] = 1
            image = 100 * mask + draw.integers(0, 100, mask.shape, np.uint8)
            Image.fromarray(image).save(folder / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{number}.png")


def write_fields(path):
    """Signals and their derivatives: 20 to train on."""
    draw = np.random.default_rng(0)
    places = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    phases = draw.uniform(0, 2 * np.pi, (25, 1, 1))
    np.savez(path, inputs=np.sin(places + phases), targets=np.cos(places + phases))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs of every task: TASK, which went through, and TASK-killed."""
    folder = tmp_path_factory.mktemp("killed")
    write_masks(folder / "masks")
    write_fields(folder / "fields.npz")
    command, killed = Commands(), {"signal": signal.SIGKILL}
    for name, (again, options, steps) in TASKS.items():
        given = [option.replace("FOLDER", str(folder)) for option in options]
        begin = ["train", *again, *given, *COMMON, *ALONE, "--output", folder, "--run"]
        resume = ["train", *again, *ALONE, "--resume", folder / f"{name}-killed"]
        # Killed in the first epoch behind a checkpoint; then in the second, behind one of the refined network.
        done = [
            command(folder, *begin, name),
            command(folder, *begin, f"{name}-killed", steps=EVERY + 1, **killed),
            command(folder, *resume, steps=steps + 1, **killed),
            command(folder, *resume),
        ]
        assert [each["code"] for each in done] == [0, -signal.SIGKILL, -signal.SIGKILL, 0], done
    command.close()
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_a_killed_training_ends_as_one_that_went_through(name, runs):
    assert_same_runs(runs / name, runs / f"{name}-killed")
    lines = (runs / name / "metrics.jsonl").read_text().splitlines()
    weights = json.loads((runs / name / "result.json").read_text())["weights"]
    assert json.loads(lines[1])["refined"]["weights"] == weights
