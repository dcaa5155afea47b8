"""The configurations of the published networks."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import dynamicblocks as db
from dynamicblocks.tasks import load_config

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
        assert len(db.twists(net).twisted) > 0 or net.blocks[0].gradient == db.Reversible()


def load_script(name):
    """A script of the experiments as a module."""
    described = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def test_accuracies_that_were_not_found_are_marked_and_what_was_not_trained_is_said():
    row = load_script("report").row(
        "none_of_them", ["Net", "CIFAR-10", "3-3-3", "-", "Euler", 0.5, 88.5, None, "no source"]
    )
    assert "| 0.5 M | 88.50 (no source) | - | not measured | not measured | not measured |" in row


def test_families_are_compared_at_equal_size_on_the_same_images():
    script = load_script("pde_families")
    with torch.device("meta"):
        weights = {name: script.build(name).num_weights for name in script.FAMILIES}
    assert {name: count for name, count in weights.items() if not 250_000 <= count <= 300_000} == {}
    configs = [script.config_of(name, 0, None, "runs") for name in (*script.FAMILIES, *script.LEVELS)]
    assert all(config.data == configs[0].data for config in configs)
    assert all(config.optimizer == configs[0].optimizer for config in configs)
    assert configs[0].data.train_images == 10_000
    grown = script.config_of(script.GROWN, 0, None, "runs").refine
    assert (grown.restart, len(grown.epochs)) == (True, 2)
