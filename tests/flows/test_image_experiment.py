"""The experiment of images: its baseline, a training that is cut off and goes on, its table."""

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.experiment_scripts import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("densities_images")


def test_independent_pixels_are_counted(script):
    train = torch.tensor([0, 0, 1, 2]).view(4, 1, 1, 1).byte()
    test = torch.tensor([0, 2]).view(2, 1, 1, 1).byte()
    # (2 + 1) / 7 and (1 + 1) / 7
    assert script.independent(train, test, 3) == pytest.approx(-(math.log2(3 / 7) + math.log2(2 / 7)) / 2)


def test_training_goes_on_from_its_checkpoint_and_tells_its_time(script, tmp_path):
    images = torch.randint(4, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    setting = replace(script.SETTINGS["digits"], hidden=(4,), batch=4)
    begun = script.train(script.flow_of(setting, images, 4), images, setting, 0, 0.002, tmp_path / "flow.pt")
    assert not begun["resumed"]
    flow = script.flow_of(setting, images, 4)
    done = script.train(flow, images, setting, 0, 0.004, tmp_path / "flow.pt")
    assert done["resumed"]
    assert done["steps"] > begun["steps"]
    assert done["processor_seconds"] >= 0.24
    told = script.tested(flow, images, 10)
    assert told == script.tested(flow, images, 10)
    assert math.isfinite(told["bits_per_dim"])
    assert told["test_images"] == 20
    assert told["evaluations"] > 0
    script.draw(flow, images.repeat(3, 1, 1, 1), 4, tmp_path / "picture.png", 0)
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_table_names_what_was_published(script, tmp_path, monkeypatch):
    row = {
        "data": "mnist", "seed": 0, "bits_per_dim": 1.234, "standard_error": 0.01, "test_images": 2000, "minutes": 30.0,
        "independent_pixels": 1.7, "published": 0.99, "epochs": 1.5, "evaluations": 30.0, "weights": 1234,
    }  # fmt: skip
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"rows": [row]}))
    monkeypatch.setattr(script, "RESULT", path)
    assert (
        "| mnist, seed 0 | **1.234** ± 0.010 (2,000 images) | 1.700 | 0.99 | 30 | 1.5 | 30 | 1,234 |" in script.table()
    )
