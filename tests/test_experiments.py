"""The configurations of the published networks."""

from pathlib import Path
from types import SimpleNamespace

import pytest
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
    net = config.build(SimpleNamespace(channels=3, classes=range(classes)))
    for _ in config.refine.epochs:
        net = db.refine(net)
    published = PUBLISHED[name][5]
    if published is not None:
        assert net.num_weights / 1e6 == pytest.approx(published, abs=0.007)
    else:
        assert len(db.twists(net).twisted) > 0
