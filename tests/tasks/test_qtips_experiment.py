"""The comparison on Q-tips: networks of equal weights, and what its table says."""

import pytest

from dynamicblocks.network import num_weights
from tests.experiment_scripts import load_script


def test_the_networks_have_equal_weights_and_each_its_line():
    script = load_script("qtips")
    weights = [num_weights(model.create(1, 4, dense=True)) for model in script.NETWORKS.values()]
    assert max(weights) <= 1.05 * min(weights)
    lines = script.table().splitlines()
    assert len(lines) == 3 + len(script.NETWORKS)
    assert len({line.count("|") for line in lines}) == 1
    for row in script.record()["rows"]:
        assert 0 <= row["test_rods"] <= 1
        ious = [row[f"test_iou_{name}"] for name in script.RODS]
        assert row["test_rods"] == pytest.approx(sum(ious) / 3)
