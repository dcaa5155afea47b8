"""A training of any task that is killed twice, before and after a refinement, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dynamicblocks.training.storage import read_tree

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("killed_worker.py")
OWN = ["--task", str(ROOT / "examples" / "own_task.py:NextValue")]

EVERY = 3  # steps between checkpoints
COMMON = ["--epochs", "2", "--refine.epochs", "1", "--checkpoint_steps", str(EVERY), "--hardware.accelerator", "cpu"]
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
    plan, expected = [], []
    for name, (again, options, steps) in TASKS.items():
        given = [option.replace("FOLDER", str(folder)) for option in options]
        begin = ["train", *again, *given, *COMMON, "--output", str(folder), "--run"]
        resume = ["train", *again, "--resume", str(folder / f"{name}-killed")]
        # Killed in the first epoch behind a checkpoint; then in the second, behind one of the refined network.
        plan += [([*begin, name], None), ([*begin, f"{name}-killed"], EVERY + 1), (resume, steps + 1), (resume, None)]
        expected += [0, -signal.SIGKILL, -signal.SIGKILL, 0]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(WORKER)], input=json.dumps(plan), env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == expected, done.stderr
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_a_killed_training_ends_as_one_that_went_through(name, runs):
    whole, killed = runs / name, runs / f"{name}-killed"
    for kept in ("checkpoint.safetensors", "model.safetensors"):
        assert_equal(read(whole / kept), read(killed / kept))
    lines, others = ((run / "metrics.jsonl").read_text().splitlines() for run in (whole, killed))
    assert [untimed(json.loads(line)) for line in lines] == [untimed(json.loads(line)) for line in others]
    result, other = (untimed(json.loads((run / "result.json").read_text())) for run in (whole, killed))
    assert result == other
    assert json.loads(lines[1])["refined"]["weights"] == result["weights"]


def read(path):
    if path.name.startswith("checkpoint"):
        tree = read_tree(path)
        del tree["position"]["seconds"], tree["position"]["begun"], tree["position"]["grown"]
        return tree

    return load_file(path)


def untimed(entry):
    """Without what a stopwatch says."""
    if isinstance(entry, dict):
        kept = {name: value for name, value in entry.items() if not name.endswith(("seconds", "_per_second"))}
        return {name: untimed(value) for name, value in kept.items()}
    return [untimed(each) for each in entry] if isinstance(entry, list) else entry


def assert_equal(one, other, where=""):
    """Equal trees, to the last bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, (each, beside) in enumerate(zip(one, other, strict=True)):
            assert_equal(each, beside, f"{where}[{place}]")
    else:
        assert one == other, where
