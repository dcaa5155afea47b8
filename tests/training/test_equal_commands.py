"""Equal commands give equal weights: whatever else the machine does, and however many processes read files."""

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dynamicblocks.tasks import DataConfig, ModelConfig
from dynamicblocks.training import HardwareConfig, Training
from tests.trainings import classification

pytestmark = pytest.mark.usefixtures("without_manifestations")


@pytest.fixture
def beside():
    """A process that keeps a processor busy, once it is started."""
    started = []
    yield lambda: started.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of noise in three classes."""
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for label in "abc":
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


def trained(tmp_path, run, data, **hardware):
    """Everything that a run left but its clock."""
    task, config = classification(
        data=data,
        model=ModelConfig(name="continuousnet", width=4, units=1),
        hardware=HardwareConfig(**hardware),
        epochs=2,
        checkpoint_steps=2,
        output=str(tmp_path),
        run=run,
    )
    training = Training(task, config, console=Console(quiet=True))
    training.run()
    state = training.folder.read_checkpoint()
    state["position"].pop("seconds")
    clock = {"seconds", "images_per_second"}
    losses = [{key: each[key] for key in each if key not in clock} for each in training.folder.metrics()]
    weights, _ = training.folder.read_weights()
    return {"kept": weights, "state": state, "losses": losses, "chosen": training.folder.record()["chosen"]}


def assert_equal(one, two, place=""):
    """To the last bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, place
        assert torch.equal(one, two), place
    elif isinstance(one, Mapping):
        assert one.keys() == two.keys(), place
        for key in one:
            assert_equal(one[key], two[key], f"{place}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), place
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{place}/{number}")
    else:
        assert one == two, place


def test_three_runs_on_data_in_memory_are_equal(tmp_path, beside):
    data = DataConfig(train_images=128, test_batch_size=360)
    idle = trained(tmp_path, "idle", data, precision="bf16-mixed")
    reading = trained(tmp_path, "reading", data, precision="bf16-mixed", workers=3)
    beside()
    busy = trained(tmp_path, "busy", data, precision="bf16-mixed")
    assert any(name.endswith("running_var") for name in idle["kept"])
    assert_equal(idle, busy)
    assert_equal(idle, reading)


def test_three_runs_on_files_are_equal_however_many_processes_read_them(folder, tmp_path, beside):
    data = DataConfig(name=f"imagefolder:{folder}", size=16, batch_size=8)
    idle = trained(tmp_path, "idle", data)
    reading = trained(tmp_path, "reading", data, workers=3)
    beside()
    busy = trained(tmp_path, "busy", data)
    assert_equal(idle, reading)
    assert_equal(idle, busy)
