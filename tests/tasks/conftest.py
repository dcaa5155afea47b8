"""Runs of a few steps, for the tests of predictions."""

import numpy as np
import pytest
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.tasks import Classify, DataConfig, FieldConfig, MaskConfig, ModelConfig, Regress, Segment
from dynamicblocks.training import HardwareConfig, OptimizerConfig, TrainConfig, Training, TwistConfig
from tests.mask_files import write_pairs

TINY = ModelConfig("dynamicnet", widths=(4,), units=1)
FEW = DataConfig(train_images=64, batch_size=32)


def trained(folder, task, run="run", twist=None, **hardware):
    """A run of a few steps, read back."""
    usual = {"accelerator": "cpu", "precision": "32-true", "compile": False, "channels_last": False}
    config = TrainConfig(
        OptimizerConfig(lr=0.1),
        epochs=1,
        max_steps=4,
        output=str(folder),
        run=run,
        hardware=HardwareConfig(**{**usual, **hardware}),
        twist=twist or TwistConfig(),
    )
    with pytest.MonkeyPatch.context() as patched:  # neither pictures nor other integrators
        patched.setattr(type(task), "conclude", lambda *_: [])
        patched.setattr("dynamicblocks.training.outcome.FEW", 0)
        Training(task, config, console=Console(quiet=True)).run()
    return folder / run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="session")
def digits(folder):
    return db.load_run(trained(folder, Classify(data=FEW, model=TINY), "digits"))


@pytest.fixture(scope="session")
def masks(folder):
    root = folder / "masks"
    write_pairs(root, count=4)
    model = ModelConfig("dynamicnet", widths=(4,), units=1)
    return db.load_run(
        trained(folder, Segment(data=MaskConfig(f"folder:{root}", batch_size=2), model=model), "segment")
    )


@pytest.fixture(scope="session")
def fields(folder):
    draw = np.random.default_rng(0)
    inputs = draw.normal(3, 2, (24, 2, 8))
    path = folder / "fields.npz"
    np.savez(path, inputs=inputs, targets=100 + 50 * inputs.cumsum(2)[:, :1])
    return db.load_run(trained(folder, Regress(data=FieldConfig(f"fields:{path}", batch_size=8)), "fields"))
