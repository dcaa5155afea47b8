"""Depth that grows during training: what refinement keeps, what it changes, and how a run goes on after it."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dynamicblocks as db
from dynamicblocks.draws import generator
from dynamicblocks.structure import discretisation, with_discretisation
from dynamicblocks.tasks import ModelConfig, load_run
from dynamicblocks.training import RefineConfig, Training
from dynamicblocks.training.network_changes import carry_momentum, changes_before, scatter_controls
from dynamicblocks.training.storage import read_tree
from tests.training.test_training import kill_in_an_epoch
from tests.trainings import classification

pytestmark = pytest.mark.usefixtures("without_manifestations")


def trained_net(**options):
    """A small ContinuousNet after a few steps of training, so that its statistics and weights are its own."""
    torch.manual_seed(0)
    net = db.create_model("continuousnet", in_channels=1, width=4, units=2, **options).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = torch.randn(16, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (16,))
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net, optimizer, images, labels


def loss_of(net, images, labels):
    with torch.no_grad():
        return nn.functional.cross_entropy(net.eval()(images), labels).item()


@pytest.mark.parametrize(
    ("controls", "norm"),
    [
        ("constant", "batch"),
        ("linear", "batch"),
        ("bspline", "batch"),
        ("discontinuous_linear", "batch"),
        # Between and beyond the nodes of a polynomial, variances are held positive, so it is exact for weights alone.
        ("legendre", "group"),
    ],
)
@pytest.mark.parametrize("integrator", ["euler", "rk4_classic"])
def test_doubled_controls_at_fixed_steps_keep_the_loss(integrator, controls, norm):
    net, _, images, labels = trained_net(controls=controls, integrator=integrator, norm=norm)
    deeper = db.refine(net, steps=False)
    assert deeper.num_weights > net.num_weights
    assert loss_of(deeper, images, labels) == pytest.approx(loss_of(net, images, labels), abs=1e-6)


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("midpoint", 2), ("kutta3", 3), ("rk4_classic", 4)])
def test_on_a_smooth_field_doubled_steps_change_the_logits_by_the_integrators_order(integrator, order):
    """The change of the loss is of that order too, but a scalar changes sign on the way there."""
    smooth = {"controls": "legendre", "activation": "tanh", "norm": "none", "initial": "torch"}
    net, _, images, labels = trained_net(integrator=integrator, **smooth)
    finer = [db.with_integrator(net, steps=steps).eval() for steps in (4, 8, 16, 32)]
    logits = [each(images).detach() for each in finer]
    changes = [(after - before).norm().item() for before, after in pairwise(logits)]
    rates = [math.log2(larger / smaller) for larger, smaller in pairwise(changes)]
    assert rates[-1] == pytest.approx(order, abs=0.1)
    losses = [loss_of(each, images, labels) for each in finer]
    # The loss moves by no more than the logits do: cross-entropy is Lipschitz with constant sqrt(2) in each sample.
    for change, (before, after) in zip(changes, pairwise(losses), strict=True):
        assert abs(after - before) <= math.sqrt(2) * change


def test_momentum_is_copied_to_both_children_of_a_constant_control():
    net, optimizer, _, _ = trained_net()
    deeper = db.refine(net)
    successor = torch.optim.SGD(deeper.parameters(), lr=0.05, momentum=0.9)
    carry_momentum(net, optimizer.state, deeper, successor.state, factor=2)
    momenta = {name: optimizer.state[weight]["momentum_buffer"] for name, weight in net.named_parameters()}
    seen = 0
    for name, weight in deeper.named_parameters():
        parts = name.split(".controls.layers.")
        source = name
        if len(parts) == 2:
            index, _, rest = parts[1].partition(".")
            source = f"{parts[0]}.controls.layers.{int(index) // 2}.{rest}"
            seen += 1
        assert torch.equal(successor.state[weight]["momentum_buffer"], momenta[source]), name
    assert seen == 2 * sum(".controls." in name for name in momenta)


def test_momentum_of_other_bases_is_refined_as_their_weights_are():
    """A step along the refined momentum is the refinement of a step along the momentum."""
    net, optimizer, _, _ = trained_net(controls="linear", integrator="midpoint")
    deeper = db.refine(net)
    carried = torch.optim.SGD(deeper.parameters(), lr=1.0, momentum=0.9)
    carry_momentum(net, optimizer.state, deeper, carried.state, factor=2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.sub_(optimizer.state[weight]["momentum_buffer"])
        for weight in deeper.parameters():
            weight.sub_(carried.state[weight]["momentum_buffer"])
    for (name, expected), weight in zip(db.refine(net).named_parameters(), deeper.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12, msg=name)


def test_weights_that_never_moved_have_no_momentum():
    net, _, _, _ = trained_net()
    deeper = db.refine(net)
    carried = torch.optim.SGD(deeper.parameters(), lr=1.0, momentum=0.9)
    carry_momentum(net, {}, deeper, carried.state, factor=2)
    assert all(not state["momentum_buffer"].any() for state in carried.state.values())


def test_scattered_copies_differ_a_little_and_alike_for_the_same_key():
    net = db.refine(trained_net()[0])
    other = db.refine(trained_net()[0])
    scatter_controls(net, 0.01, generator(3, 1))
    scatter_controls(other, 0.01, generator(3, 1))
    first, second = net.blocks[0].controls.layers[0], net.blocks[0].controls.layers[1]
    ratio = (first.branch.conv1.weight / second.branch.conv1.weight - 1).std()
    assert ratio.item() == pytest.approx(0.01 * 2**0.5, rel=0.2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def config(tmp_path, run, **changes):
    model = ModelConfig(name="continuousnet", width=4, units=1)
    refine = RefineConfig(epochs=(1, 2))
    return classification(model=model, refine=refine, epochs=3, output=str(tmp_path), run=run, **changes)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_training_refines_at_its_epochs_and_is_read_back_in_its_new_shape(tmp_path):
    training = Training(*config(tmp_path, "grown"))
    outcome = training.run()
    assert [block.steps for block in training.net.blocks] == [4, 4, 4]
    entries = metrics(outcome.folder)
    assert "refined" not in entries[0]
    assert entries[1]["refined"]["weights"] < entries[2]["refined"]["weights"] == outcome.weights
    # Measured in evaluation mode: the weights before the refinement are those the epoch before was scored with.
    assert entries[1]["refined"]["validation_accuracy"][0] == entries[0]["validation_accuracy"]
    assert outcome.kept_epoch == 2
    net = load_run(outcome.folder).net
    assert discretisation(net) == discretisation(training.net)
    for name, tensor in training.net.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name


def test_measuring_a_refinement_leaves_the_statistics_alone(tmp_path):
    training = Training(*config(tmp_path, "still"))
    training.state.epoch = 1
    before = {name: tensor.clone() for name, tensor in training.net.named_buffers()}
    expected = dict(db.refine(training.net).named_buffers())
    (growth,) = changes_before(training.config, epoch=1)
    training._change_network(growth)
    after = dict(training.net.named_buffers())
    assert after.keys() == expected.keys() > before.keys()
    assert all(torch.equal(after[name], expected[name]) for name in after)


# tests/tasks/test_killed.py kills quicker trainings, with sgd.
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_run_killed_after_a_refinement_resumes_to_the_same_weights_bit_for_bit(optimizer, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = ["--model", "ContinuousNet", "--dataset", "digits", "--alpha", "4", "--initial-time-d", "1"]
    flags += ["--epochs", "3", "--optimizer.name", optimizer]
    flags += ["--refine", "1", "2", "--refine-variance", "0.01", "--batch-size", "16", "--data.validation", "0.1"]
    command = [sys.executable, "-m", "dynamicblocks.cli.main", "train", *flags, "--output", str(tmp_path)]
    subprocess.run([*command, "--run", "whole"], env=env, check=True, stdout=subprocess.DEVNULL)
    # It is killed in its second epoch, which began with a refinement.
    kill_in_an_epoch([*command, "--run", "killed", "--checkpoint-steps", "2"], tmp_path / "killed", env)
    stopped = read_tree(tmp_path / "killed" / "checkpoint.safetensors")
    assert stopped["position"]["epoch"] == 1
    resume = [sys.executable, "-m", "dynamicblocks.cli.main", "train", "--resume", str(tmp_path / "killed")]
    subprocess.run(resume, env=env, check=True, stdout=subprocess.DEVNULL)
    whole, killed = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    last, resumed = (read_tree(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "killed"))
    for key, state in last["optimizer"]["state"].items():
        assert torch.equal(resumed["optimizer"]["state"][key]["momentum_buffer"], state["momentum_buffer"])
    for one, other in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "killed"), strict=True):
        drop = ("seconds", "images_per_second")
        assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


@pytest.mark.parametrize(
    "controls", ["constant(3)", "linear(4)", "bspline(5)", "legendre(3)", "discontinuous_linear(4)"]
)
def test_a_discretisation_is_plain_data_that_rebuilds_the_network(controls):
    net = db.create_model("continuousnet", in_channels=1, width=4)
    other = db.with_integrator(db.project(net, controls), "rk4", times=(0.0, 0.5, 2.0))
    described = json.loads(json.dumps(discretisation(other)))
    rebuilt = with_discretisation(net, described)
    rebuilt.load_state_dict(other.state_dict())
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(rebuilt.eval()(images), other.eval()(images))
    with pytest.raises(db.ConfigurationError, match="are described"):
        with_discretisation(net, {"body.9": described["body.1"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": (3, 2)}, r"refine.epochs must increase, got \[3, 2\]"),
        ({"epochs": (0,)}, "refine.epochs must be a whole number of at least 1, got 0"),
        ({"factor": 1}, "refine.factor must be a whole number of at least 2"),
        ({"variance": -1.0}, "refine.variance must be zero or more"),
    ],
)
def test_impossible_refinements(changes, message):
    with pytest.raises(db.ConfigurationError, match=message):
        RefineConfig(**changes)
