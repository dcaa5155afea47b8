"""Twists that are turned on during training: what a run keeps, measures, stores and continues."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.layers import TwistConv2d
from dynamicblocks.structure import structure
from dynamicblocks.tasks import ModelConfig, load_run
from dynamicblocks.training import OptimizerConfig, RefineConfig, TrainConfig, Training
from dynamicblocks.training import train as train_module
from dynamicblocks.training.config import TwistConfig
from dynamicblocks.training.network_changes import Refined, Twisted, changes_before
from dynamicblocks.training.optimizer import learning_rate, make_optimizer, set_learning_rate
from dynamicblocks.training.storage import read_tree
from tests.training.small_task import stopped
from tests.training.test_training import kill_in_an_epoch, train, weights_equal
from tests.trainings import classification

pytestmark = pytest.mark.usefixtures("without_manifestations")

TINY = ["--model.widths", "[4,8]", "--data.batch_size", "64"]
VECTOR = ["--twist.parametrisation", "vector"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def twists_in(weights):
    return {name for name in weights if name.endswith(".twist")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three epochs that is twisted before its second, on turned and scaled images."""
    folder = tmp_path_factory.mktemp("runs")
    changes = ["--data.turn", "10", "--data.scale", "0.1"]
    assert train(folder, *TINY, *VECTOR, *changes, "--twist.epoch", "1", "--epochs", "3") == 0
    return folder / "run"


def test_a_run_is_twisted_before_its_epoch_with_an_equal_loss(finished):
    first, second, third = metrics(finished)
    assert "twisted" not in first
    assert "twisted" not in third
    before, after = second["twisted"]["validation_loss"]
    assert after == pytest.approx(before, abs=1e-5)
    # Those of the epoch before, whose weights it had.
    assert before == first["validation_loss"]
    assert second["twisted"]["validation_accuracy"][0] == first["validation_accuracy"]
    assert third["loss"] < first["loss"]
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["twist"] == {
        "parametrisation": "vector",
        "degree": 1,
        "stages": None,
        "where": None,
        "epoch": 1,
    }
    assert (config["data"]["turn"], config["data"]["scale"]) == (10.0, 0.1)


def test_the_weights_of_a_twisted_run_are_its_own(finished):
    weights = load_file(finished / "model.safetensors")
    twists = twists_in(weights)
    assert twists
    assert all(bool(weights[name].any()) for name in twists)
    entry = metrics(finished)[1]["twisted"]
    with torch.device("meta"):
        plain = db.create_model(
            "dynamicnet_small", in_channels=1, num_classes=10, widths=(4, 8), units=1, layer="preact_single"
        )
    # One kernel more for each of three channels by three.
    added = sum(weight.numel() for name, weight in plain.named_parameters() if tuple(weight.shape[-2:]) == (3, 3))
    assert entry["weights"] == plain.num_weights + added
    assert sum(weights[name].numel() for name in twists) == added


def test_a_twisted_run_is_read_back_and_evaluated(finished, capsys):
    net = load_run(finished).net
    stored = load_file(finished / "model.safetensors")
    assert net.state_dict().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in net.state_dict().items())
    assert {f"{each.name}.twist" for each in db.twists(net).twisted} == twists_in(stored)
    (finished / "evaluations.jsonl").unlink(missing_ok=True)
    assert main(["evaluate", str(finished), "--integrator", "rk4"]) == 0
    capsys.readouterr()
    trained, asked = (json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines())
    result = json.loads((finished / "result.json").read_text())
    assert trained["accuracy"] == pytest.approx(result["test_accuracy"])
    assert asked["integrator"] == "rk4"


def test_the_other_commands_read_a_twisted_run(finished, capsys):
    assert main(["converge", str(finished)]) == 0
    assert main(["compress", str(finished)]) == 0
    assert capsys.readouterr().out


def test_a_finished_twisted_run_resumes_to_its_own_result(finished):
    before = (finished / "model.safetensors").read_bytes()
    accuracy = json.loads((finished / "result.json").read_text())["test_accuracy"]
    assert main(["train", "--resume", str(finished)]) == 0
    assert (finished / "model.safetensors").read_bytes() == before
    assert json.loads((finished / "result.json").read_text())["test_accuracy"] == accuracy


def test_a_twist_of_epoch_0_is_there_from_the_beginning(tmp_path, capsys):
    flags = ["--twist.parametrisation", "full", "--twist.degree", "2", "--twist.stages", "TF"]
    assert train(tmp_path, *TINY, *flags, "--epochs", "1") == 0
    (entry,) = metrics(tmp_path / "run")
    assert "twisted" not in entry
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[1] for name in twists_in(weights)} == {"0"}
    assert all(weights[name].shape[0] == 5 * 4 for name in twists_in(weights))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    net = load_run(tmp_path / "run").net
    assert record["weights"] == net.num_weights
    assert {each.twist for each in db.twists(net).twisted} == {"full, degree 2"}
    # Its test images were read with the weights that were kept.
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_where_and_muon_go_together_with_a_twist(tmp_path):
    flags = [*VECTOR, "--twist.where", "body.0.*", "--twist.epoch", "1", "--optimizer.name", "muon"]
    assert train(tmp_path, *TINY, *flags, "--epochs", "2") == 0
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[1] for name in twists_in(weights)} == {"0"}
    assert all(bool(weights[name].any()) for name in twists_in(weights))


def test_a_twist_resnet_is_trained_from_the_command_line(tmp_path):
    flags = ["--model.name", "twist_resnet18", "--model.width", "4", "--model.stages", "TTTF", "--model.degree", "2"]
    limits = ["--epochs", "1", "--max_steps", "6", "--data.batch_size", "32"]
    assert main(["train", "--output", str(tmp_path), "--run", "run", *flags, *limits]) == 0
    net = load_run(tmp_path / "run").net
    twisted = [module for module in net.modules() if isinstance(module, TwistConv2d)]
    assert {module.out_channels for module in twisted} == {4, 8, 16}
    assert len(twisted) == 12
    # The third stage sees two by two pixels, of which none lies in the middle.
    assert all(bool(module.twist.any()) for module in twisted)
    assert math.isfinite(metrics(tmp_path / "run")[0]["validation_loss"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--twist.epoch", "3"], "need twist.parametrisation: vector, independent or full"),
        (["--twist.stages", "TF"], "need twist.parametrisation"),
        (["--twist.where", "body.*"], "need twist.parametrisation"),
        (["--twist.degree", "2"], "need twist.parametrisation"),
        ([*VECTOR, "--twist.epoch", "-1"], "twist.epoch must be a whole number of at least 0, got -1"),
        ([*VECTOR, "--epochs", "3", "--twist.epoch", "3"], "from 0 to epochs - 1 = 2, got 3"),
        ([*VECTOR, "--twist.stages", "TTT"], "each of the 2 stages"),
        ([*VECTOR, "--twist.where", "nothing"], "there is nothing to twist"),
        (["--optimizer.schedule", "xexp", "--optimizer.peak", "0"], "optimizer.peak must lie between 0 and 1, got 0.0"),
        (["--optimizer.peak", "1.5"], "optimizer.peak must lie between 0 and 1, got 1.5"),
        (["--model.name", "twist_resnet18", "--model.units", "[2]"], "for each of 1 stages, got 'TTTT'"),
        (["--model.name", "twist_resnet18", "--model.stages", "TT"], "each of 4 stages, got 'TT'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_twists_are_usage_errors_that_leave_nothing_behind(flags, message, tmp_path, capsys):
    code = main(["train", "--output", str(tmp_path / "runs"), *flags])
    assert (code, message in capsys.readouterr().err) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flags", [["--twist.parametrisation", "vectors"], ["--twist.degree", "3"]])
def test_unknown_twists_are_refused_by_the_parser(flags, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--output", str(tmp_path / "runs"), *flags])
    assert stop.value.code == 2


def config(tmp_path, run, **changes):
    model = ModelConfig(name="continuousnet", width=4, units=1)
    twist = TwistConfig(parametrisation="vector", epoch=1)
    choices = {"model": model, "twist": twist, "epochs": 3, "output": str(tmp_path), "run": run, **changes}
    return classification(**choices)


def test_depth_and_coefficients_grow_in_one_run(tmp_path):
    training = Training(*config(tmp_path, "grown", refine=RefineConfig(epochs=(1, 2))))
    outcome = training.run()
    first, second, third = metrics(outcome.folder)
    assert not {"refined", "twisted"} & first.keys()
    # The depth first: the twist then finds all the controls.
    refined, twisted = second["refined"], second["twisted"]
    assert first["validation_loss"] == refined["validation_loss"][0]
    assert refined["validation_loss"][1] == twisted["validation_loss"][0]
    assert twisted["validation_loss"][1] == pytest.approx(twisted["validation_loss"][0], abs=1e-5)
    assert refined["weights"] < twisted["weights"]
    assert twisted["evaluations"] == refined["evaluations"]
    assert third["refined"]["weights"] > twisted["weights"]
    assert "twisted" not in third
    names = {each.name for each in db.twists(training.net).twisted}
    assert sum(".controls.layers.3." in name for name in names) == 2 * 3
    net = load_run(outcome.folder).net
    assert structure(net) == structure(training.net)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in training.net.state_dict().items())


def test_weights_from_before_the_twist_are_not_the_result(tmp_path, monkeypatch):
    measured, losses = train_module.evaluate, iter(range(1, 99))

    def worse_each_time(*arguments):
        score = measured(*arguments)
        return replace(score, figures={**score.figures, "loss": float(next(losses))})

    monkeypatch.setattr(train_module, "evaluate", worse_each_time)
    training = Training(*config(tmp_path, "worse"))
    outcome = training.run()
    assert outcome.kept_epoch == 1
    assert twists_in(load_file(outcome.folder / "model.safetensors"))


def test_what_grows_before_an_epoch():
    chosen = TrainConfig(
        epochs=9, refine=RefineConfig(epochs=(2, 4)), twist=TwistConfig(parametrisation="full", epoch=4)
    )
    kinds = {epoch: [type(growth) for growth in changes_before(chosen, epoch)] for epoch in range(9)}
    assert {epoch: found for epoch, found in kinds.items() if found} == {2: [Refined], 4: [Refined, Twisted]}
    assert not list(changes_before(TrainConfig(twist=TwistConfig(parametrisation="full")), 0))


def moved(net, optimizer, count=3):
    images, labels = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8)
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return images, labels


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_old_weights_keep_their_momentum_and_twists_begin_without(name):
    settings = OptimizerConfig(name=name, lr=0.01)
    net = db.create_model("continuousnet", in_channels=1, width=4, units=2).double()
    optimizer = make_optimizer(net, settings)
    images, labels = moved(net, optimizer)
    growth = Twisted(TwistConfig(parametrisation="independent", epoch=1))
    new = growth.apply(net)
    successor = make_optimizer(new, settings)
    growth.carry(net, optimizer.state, new, successor.state)
    old = dict(net.named_parameters())
    seen = 0
    for key, weight in new.named_parameters():
        if key.endswith(".twist"):
            assert weight not in successor.state, key
            continue
        carried, kept = (state["momentum_buffer"] for state in (successor.state[weight], optimizer.state[old[key]]))
        assert torch.equal(carried, kept), key
        assert carried.data_ptr() != kept.data_ptr()
        seen += bool(kept.any())
    assert seen == len(old)

    # The next step takes the old weights where they would have gone, for a twist of zero changes no gradient of theirs.
    for each, moving in ((net, optimizer), (new, successor)):
        moving.zero_grad()
        F.cross_entropy(each(images), labels).backward()
        moving.step()
    for key, weight in new.named_parameters():
        if key.endswith(".twist"):
            assert bool(weight.any()), key
        else:
            torch.testing.assert_close(weight, old[key], rtol=1e-10, atol=1e-10, msg=key)


def test_weights_that_never_moved_have_no_momentum_to_carry():
    net = db.create_model("continuousnet", in_channels=1, width=4)
    growth = Twisted(TwistConfig(parametrisation="vector", epoch=1))
    new = growth.apply(net)
    carried = {}
    growth.carry(net, {}, new, carried)
    assert carried == {}


# The other two cases are of the same parts: what the optimiser keeps, a twist before the stop or after it.
@pytest.mark.parametrize(
    ("optimizer", "epoch"),
    [
        ("sgd", 0),
        ("muon", 1),
        pytest.param("sgd", 1, marks=pytest.mark.slow),
        pytest.param("muon", 0, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_after_its_twist_goes_on_to_the_same_weights(optimizer, epoch, tmp_path, monkeypatch):
    choices = {
        "optimizer": OptimizerConfig(name=optimizer),
        "twist": TwistConfig(parametrisation="vector", epoch=epoch),
        "epochs": 2,
    }
    whole = Training(*config(tmp_path, "whole", **choices))
    whole.run()
    stopped(*config(tmp_path, "broken", checkpoint_steps=4, **choices), whole.batches.steps + 6, monkeypatch)
    resumed = Training(*config(tmp_path, "broken", checkpoint_steps=4, **choices), resume=tmp_path / "broken")
    assert (resumed.state.epoch, resumed.state.step) == (1, 4)
    assert ("twisted" in resumed.state.grown) == (epoch == 1)
    assert twists_in(resumed.net.state_dict())
    resumed.run()
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name
    one, two = (metrics(tmp_path / run)[1] for run in ("whole", "broken"))
    drop = ("seconds", "images_per_second")
    assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in two.items() if k not in drop}


@pytest.mark.slow
def test_a_run_killed_after_growing_twice_resumes_to_the_same_weights_bit_for_bit(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = ["--model", "ContinuousNet", "--dataset", "digits", "--alpha", "4", "--initial-time-d", "1"]
    flags += ["--epochs", "2", "--refine", "1", "--batch-size", "16", *VECTOR, "--twist.epoch", "1"]
    command = [sys.executable, "-m", "dynamicblocks.cli.main", "train", *flags, "--output", str(tmp_path)]
    subprocess.run([*command, "--run", "whole"], env=env, check=True, stdout=subprocess.DEVNULL)
    # It is killed in its second epoch, before which both were done.
    kill_in_an_epoch([*command, "--run", "killed", "--checkpoint-steps", "2"], tmp_path / "killed", env)
    assert read_tree(tmp_path / "killed" / "checkpoint.safetensors")["position"]["epoch"] == 1
    resume = [sys.executable, "-m", "dynamicblocks.cli.main", "train", "--resume", str(tmp_path / "killed")]
    subprocess.run(resume, env=env, check=True, stdout=subprocess.DEVNULL)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert weights_equal(whole / "model.safetensors", killed / "model.safetensors")
    assert twists_in(load_file(killed / "model.safetensors"))
    last, resumed = (read_tree(run / "checkpoint.safetensors") for run in (whole, killed))
    assert last["form"] == resumed["form"]
    for key, state in last["optimizer"]["state"].items():
        assert torch.equal(resumed["optimizer"]["state"][key]["momentum_buffer"], state["momentum_buffer"])


def test_a_rate_that_rises_and_falls_by_itself():
    schedule = OptimizerConfig(lr=2.0, lr_end=0.25, schedule="xexp", peak=0.2)
    rates = [learning_rate(schedule, step, 100) for step in range(100)]
    # The twentieth step is the one at the peak.
    assert rates[19] == max(rates) == pytest.approx(2.25)
    assert all(later > earlier for earlier, later in pairwise(rates[:20]))
    assert all(later < earlier for earlier, later in pairwise(rates[19:]))
    # x exp(1 - x) at x = 1/20, 1/2, 2 and 5.
    for step, value in ((0, 0.1292855), (9, 0.8243606), (39, 0.7357589), (99, 0.0915782)):
        assert rates[step] == pytest.approx(0.25 + 2 * value, abs=1e-6)
    assert learning_rate(OptimizerConfig(schedule="xexp", lr=1.0, peak=1.0), 99, 100) == pytest.approx(1.0)


@pytest.mark.parametrize("peak", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_peaks_outside_the_training_are_refused(peak):
    with pytest.raises(db.ConfigurationError, match=r"optimizer\.peak must lie between 0 and 1"):
        OptimizerConfig(schedule="xexp", peak=peak)


def test_a_run_follows_that_rate(tmp_path):
    flags = ["--optimizer.schedule", "xexp", "--optimizer.peak", "0.25", "--optimizer.lr", "0.1"]
    assert train(tmp_path, *TINY, *flags, "--epochs", "2") == 0
    # The last step of each epoch, at x = 2 and x = 4.
    rates = [entry["learning_rate"] for entry in metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.1 * 2 * math.exp(-1), 0.1 * 4 * math.exp(-3)])


@pytest.mark.parametrize(("name", "decay"), [("sgd", 5e-4), ("muon", 0.04)])
def test_twists_can_have_a_learning_rate_of_their_own(name, decay):
    net = db.create_model("twist_resnet18", width=4)
    config = OptimizerConfig(name=name, lr=0.2, twist_lr=0.05, weight_decay=5e-4, kernel_decay=0.04)
    optimizer = make_optimizer(net, config)
    set_learning_rate(optimizer, 0.1)
    twists = {id(weight) for key, weight in net.named_parameters() if key.endswith(".twist")}
    (group,) = [group for group in optimizer.param_groups if {id(weight) for weight in group["params"]} & twists]
    assert {id(weight) for weight in group["params"]} == twists
    assert group["lr"] == pytest.approx(0.025)
    assert group["weight_decay"] == decay
    together = make_optimizer(net, OptimizerConfig(name=name))
    assert sum(len(group["params"]) for group in together.param_groups) == len(list(net.parameters()))
    assert len(together.param_groups) == len(optimizer.param_groups) - 1
    # A rate of zero keeps the network plain.
    still = make_optimizer(net, OptimizerConfig(name=name, lr=0.2, twist_lr=0.0))
    set_learning_rate(still, 0.1)
    net(torch.randn(2, 3, 8, 8)).square().mean().backward()
    still.step()
    assert not any(bool(weight.any()) for key, weight in net.named_parameters() if key.endswith(".twist"))
