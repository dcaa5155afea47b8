"""The blocks of a network are all dynamic blocks in it, wherever they stand; and a network may have none."""

import json

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.network import evaluations_of, named_blocks
from dynamicblocks.structure import structure, with_structure
from dynamicblocks.surgery import map_blocks
from dynamicblocks.twisting import stages_of
from tests.optional import optional
from tests.weights_in_time import Scalar

HardwareConfig, OptimizerConfig, TrainConfig, Training = optional(
    "dynamicblocks.training", "HardwareConfig", "OptimizerConfig", "TrainConfig", "Training"
)
(scatter_controls,) = optional("dynamicblocks.training.network_changes", "scatter_controls")
Classify, ModelConfig, load_run = optional("dynamicblocks.tasks", "Classify", "ModelConfig", "load_run")


class Stage(nn.Module):
    """A block and a module after it, as users write stages."""

    def __init__(self, block, after):
        super().__init__()
        self.block, self.after = block, after

    def forward(self, y):
        return self.after(self.block(y))


class Inner(nn.Module):
    """A layer function that runs a block itself."""

    def __init__(self):
        super().__init__()
        self.inside = db.DynamicBlock(lambda: Scalar(0.5), "linear(2)", 1, "midpoint")

    def forward(self, y):
        return self.inside(y) - y


def staged_net():
    """Two blocks, of 2 and 3 steps of two evaluations, inside stages."""
    first = Stage(db.DynamicBlock("preact_single(4)", 2, integrator="midpoint"), db.PooledConnector(4, 8))
    second = nn.Sequential(Stage(db.DynamicBlock("preact_single(8)", 3, integrator="midpoint"), nn.Identity()))
    return db.DynamicNet(db.Opening(1, 4), [first, second], db.Head(8, 10))


def plain_net():
    return db.DynamicNet(nn.Flatten(), [nn.Linear(64, 16), nn.ReLU()], nn.Linear(16, 10))


def test_blocks_inside_stages_are_blocks_of_the_network():
    net = staged_net()
    assert list(named_blocks(net)) == ["body.0.block", "body.1.0.block"]
    assert net.blocks == [net.body[0].block, net.body[1][0].block]
    assert net.evaluations == 10
    finer = db.refine(db.with_integrator(net, "rk4"))
    assert [block.steps for block in finer.blocks] == [4, 6]
    assert finer.evaluations == 40


def test_every_module_is_a_network():
    net = nn.ModuleDict({"body": staged_net(), "other": plain_net()})
    assert evaluations_of(net) == 10
    assert evaluations_of(net["other"]) == 0
    assert list(named_blocks(net["body"].body[0].block)) == [""]


def test_a_stage_for_twists_ends_where_a_block_does():
    assert stages_of(staged_net()) == [["body.0"], ["body.1"]]


def test_a_block_in_two_places_stays_one_block_and_counts_twice():
    block = db.DynamicBlock("preact_single(2)", 3)
    net = nn.Sequential(block, nn.ModuleDict({"again": block}), block)
    assert list(named_blocks(net)) == ["0"]
    assert evaluations_of(net) == 9
    finer = db.refine(net)
    assert finer[0] is finer[1]["again"] is finer[2] is not block
    assert finer[0].steps == 6
    assert evaluations_of(finer) == 18


def test_blocks_in_a_stage_that_is_in_two_places_are_changed_once():
    stage = Stage(db.DynamicBlock("preact_single(2)", 3), nn.Identity())
    seen = []

    def change(name, block):
        seen.append(name)
        return block.replaced(integrator="rk4")

    other = map_blocks(nn.Sequential(stage, stage), change)
    assert seen == ["0.block"]
    assert other[0] is other[1]
    assert other[0].block.integrator.name == "rk4"


def test_blocks_inside_the_layers_of_a_block_are_changed_with_it(float64):
    net = nn.Sequential(db.DynamicBlock(Inner, "linear(3)", 2, "midpoint"))
    names = ["0", *(f"0.controls.layers.{index}.inside" for index in range(3))]
    assert list(named_blocks(net)) == names
    # Two steps of two evaluations, each of which takes a step of two evaluations.
    assert evaluations_of(net) == 4 * (1 + 2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_()
    y = torch.randn(3, 2)
    finer = db.refine(net, 3, steps=False)
    assert [len(block.controls) for block in named_blocks(finer).values()] == [7, *[4] * 7]
    torch.testing.assert_close(finer(y), net(y), rtol=1e-12, atol=1e-12)
    rebuilt = with_structure(net, json.loads(json.dumps(structure(finer))))
    rebuilt.load_state_dict(finer.state_dict())
    assert torch.equal(rebuilt(y), finer(y))


@pytest.mark.parametrize("net", [plain_net(), nn.Linear(2, 3)], ids=["network", "layer"])
def test_a_network_without_blocks_has_a_form(net):
    other = with_structure(net, json.loads(json.dumps(structure(net))))
    assert other is not net
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in other.state_dict().items())
    assert db.freeze_unused_controls(net) == []
    with pytest.raises(db.ConfigurationError, match=r"the network has the blocks \[\], but \['body.0'\] are described"):
        with_structure(net, structure(db.create_model("dynamicnet", widths=(2,))))


@pytest.mark.parametrize(
    "change",
    [
        db.refine,
        lambda net: db.with_integrator(net, "rk4"),
        lambda net: db.with_gradient(net, "checkpoint"),
        lambda net: db.project(net, "linear"),
    ],
    ids=["refine", "with_integrator", "with_gradient", "project"],
)
def test_what_changes_blocks_needs_some(change):
    with pytest.raises(db.ConfigurationError, match="Linear holds no DynamicBlock, so there is nothing to change"):
        change(nn.Linear(2, 3))


def test_the_description_must_fit_the_blocks():
    net = staged_net()
    described = structure(net)
    del described["discretisation"]["body.1.0.block"]
    with pytest.raises(db.ConfigurationError, match=r"blocks \['body.0.block', 'body.1.0.block'\], but \['body.0.b"):
        with_structure(net, described)


def test_noise_reaches_nested_blocks():
    net = staged_net()
    before = [block.controls.layers[0].conv1.weight.clone() for block in net.blocks]
    scatter_controls(net, 0.1, torch.Generator().manual_seed(1))
    assert all(not torch.equal(b.controls.layers[0].conv1.weight, w) for b, w in zip(net.blocks, before, strict=True))


@pytest.mark.parametrize("make", [staged_net, plain_net])
def test_any_network_is_trained_smoothly_and_read_back(make, tmp_path, monkeypatch):
    monkeypatch.setattr(Classify, "build", lambda self: make())
    config = TrainConfig(
        optimizer=OptimizerConfig(smoothness=1e-2),
        hardware=HardwareConfig(precision="32-true", channels_last=False, compile=False),
        epochs=1,
        max_steps=2,
        output=str(tmp_path),
        run="run",
    )
    training = Training(Classify(), config, table="full")
    loss, sums = training.engine.loss(next(training.batches.training(0)))
    penalty = sum(block.controls.smoothness() for block in training.net.blocks)
    torch.testing.assert_close(loss, sums[1] / sums[0] + 1e-2 * penalty, rtol=1e-5, atol=1e-6)
    outcome = training.run()
    assert len(outcome.manifestations) == (9 if training.net.blocks else 0)
    net = load_run(outcome.folder).net
    assert all(torch.equal(tensor, outcome.net.state_dict()[name]) for name, tensor in net.state_dict().items())
