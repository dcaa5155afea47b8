"""The configurations of the published networks."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import dynamicblocks as db
from dynamicblocks.training.config import load_config

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
PUBLISHED = yaml.safe_load((EXPERIMENTS / "published.yaml").read_text())


def test_each_configuration_has_its_published_row():
    assert {path.stem for path in (EXPERIMENTS / "configs").glob("*.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_make_networks_of_the_published_size(name):
    config = load_config(EXPERIMENTS / "configs" / f"{name}.yaml")
    classes = 100 if config.data.name == "cifar100" else 10
    with torch.device("cpu" if name.startswith("twist") else "meta"):  # the deep ones need no numbers
        net = config.build(SimpleNamespace(channels=3, classes=range(classes)))
        for _ in config.refine.epochs:
            net = db.refine(net)
    units, published = PUBLISHED[name][2], PUBLISHED[name][5]
    if published is not None:
        assert net.num_weights / 1e6 == pytest.approx(published, abs=0.007)
    elif config.model.name == "dynamicnet":
        last = [int(number) for number in units.split("->")[-1].split("-")]
        assert [block.steps for block in net.blocks] == [len(block.controls) for block in net.blocks] == last
    else:
        assert len(db.twists(net).twisted) > 0 or net.blocks[0].gradient.name == "reversible"
