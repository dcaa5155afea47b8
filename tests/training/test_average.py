"""The exponential average: against a loop by hand, through changes of the network, checkpoints and processes."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dynamicblocks as db
from dynamicblocks.training import OptimizerConfig, Place, RediscretiseConfig, RefineConfig, TwistConfig
from dynamicblocks.training.average import Average
from dynamicblocks.training.network_changes import changes_before
from dynamicblocks.training.storage import read_tree
from tests.training.small_task import Small, assert_same, plan, quiet, stopped


def tensors_of(net):
    """Its floating tensors in float64, by name, and the others."""
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    floating = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
    return floating, {name: tensor for name, tensor in state.items() if name not in floating}


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_a_training_averages_as_a_loop_by_hand(decay, tmp_path):
    options = OptimizerConfig(ema=decay, lr=0.1, weight_decay=1e-2)
    training = quiet(Small(), plan(tmp_path, optimizer=options, epochs=3))
    expected, _ = tensors_of(training.net)
    assert_same(training.engine.average.net.state_dict(), training.net.state_dict())
    step = training.engine.step

    def seen(*arguments):
        step(*arguments)
        seen.count += 1
        kept = min(decay, (1 + seen.count) / (10 + seen.count))
        for name, now in tensors_of(training.net)[0].items():
            expected[name] = kept * expected[name] + (1 - kept) * now

    seen.count = 0
    training.engine.step = seen
    training.run()
    assert seen.count == training.engine.average.updates == 18
    floating, others = tensors_of(training.engine.average.net)
    assert any("running_var" in name for name in floating)
    for name, tensor in floating.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert others
    assert_same(others, tensors_of(training.net)[1])


def test_without_decay_nothing_is_made_and_nothing_is_different(tmp_path):
    for run, decay in (("plain", 0.0), ("averaged", 0.9)):
        quiet(Small(), plan(tmp_path, run, optimizer=OptimizerConfig(ema=decay))).run()
    plain, averaged = (read_tree(tmp_path / run / "checkpoint.safetensors") for run in ("plain", "averaged"))
    assert plain["average"] is None
    for key in ("weights", "optimizer", "random"):
        assert_same(plain[key], averaged[key])


def test_what_is_validated_kept_and_tested_is_the_average(tmp_path):
    task = Small()
    training = quiet(task, plan(tmp_path, optimizer=OptimizerConfig(ema=0.9, lr=0.2), epochs=3, keep="last"))
    outcome = training.run()
    kept, stored = load_file(tmp_path / "run" / "model.safetensors"), read_tree(tmp_path / "run/checkpoint.safetensors")
    assert_same(dict(sorted(kept.items())), dict(sorted(stored["average"]["weights"].items())))
    assert_same(outcome.net.state_dict(), training.engine.average.net.state_dict())
    assert any(not torch.equal(kept[name], tensor) for name, tensor in stored["weights"].items())

    def loss(net, split):
        sums = sum(task.loss(net.eval(), batch)[1] for batch in task.batches(split, Place()).evaluation())
        return (sums[1] / sums[0]).item()

    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    average = copy.deepcopy(training.engine.average.net)
    assert last["validation_loss"] == pytest.approx(loss(average, "validation"), rel=1e-5)
    assert outcome.test.loss == pytest.approx(loss(average, "test"), rel=1e-5)
    assert loss(copy.deepcopy(training.net), "test") != pytest.approx(outcome.test.loss, rel=1e-3)


CHANGES = {
    "refine": RefineConfig(epochs=(1,), variance=0.1),
    "rediscretise": RediscretiseConfig(epochs=(1,), controls=(3,), steps=(3,)),
    "twist": TwistConfig(parametrisation="vector", epoch=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_the_network_are_changes_of_the_average(name, tmp_path):
    """By the same map, with the same noise; it goes on with as many updates behind it."""
    config = plan(tmp_path, optimizer=OptimizerConfig(ema=0.9), **{name: CHANGES[name]})
    training = quiet(Small(), config)
    with torch.no_grad():
        for weight in training.net.parameters():
            weight.add_(0.1)
        training.engine.average.update()
    (change,) = changes_before(config, epoch=1)
    training.state.epoch = 1
    averaged = change.apply(training.engine.average.net)
    plain = change.apply(training.net)
    training._change_network(change)
    assert_same(training.engine.average.net.state_dict(), averaged.state_dict())
    assert_same(training.net.state_dict(), plain.state_dict())
    assert training.engine.average.updates == 1
    training._step(next(training.batches.training(1)))
    assert training.engine.average.updates == 2


def test_noise_on_the_copies_is_that_of_the_weights(tmp_path):
    """An average that equals the weights before a refinement equals them after it."""
    config = plan(tmp_path, optimizer=OptimizerConfig(ema=0.9), refine=CHANGES["refine"])
    training = quiet(Small(), config)
    (change,) = changes_before(config, epoch=1)
    training._change_network(change)
    assert_same(training.engine.average.net.state_dict(), training.net.state_dict())


@pytest.mark.parametrize("steps", [3, 8])
def test_a_run_stopped_goes_on_to_the_same_average(steps, tmp_path, monkeypatch):
    """In its first epoch, or in its second, which begins with a refinement."""
    task, optimizer = Small(), OptimizerConfig(name="adam", ema=0.99)
    changes = {"optimizer": optimizer, "refine": CHANGES["refine"]}
    whole = quiet(task, plan(tmp_path, "whole", **changes))
    whole.run()
    config = plan(tmp_path, "broken", checkpoint_steps=1, **changes)
    stopped(task, config, steps, monkeypatch)
    resumed = quiet(task, config, resume=tmp_path / "broken")
    assert resumed.engine.average.updates == steps
    resumed.run()
    one, other = (read_tree(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "broken"))
    for key in ("weights", "average", "optimizer", "sums"):
        assert_same(one[key], other[key])
    assert_same(*(load_file(tmp_path / run / "model.safetensors") for run in ("whole", "broken")))


def test_after_the_way_back_to_float32_it_goes_on_from_its_checkpoint(tmp_path):
    """A loss that is not finite in the second epoch, under half precision, once."""
    training = quiet(Small(), plan(tmp_path, precision="bf16-mixed", optimizer=OptimizerConfig(ema=0.9)))
    step, calls = training._step, []
    averages = []

    def failing(batch):
        calls.append(1)
        if len(calls) == 9:
            averages.append(read_tree(tmp_path / "run" / "checkpoint.safetensors")["average"])
            training._not_finite("the loss is not finite")
        if len(calls) == 10:
            averages.append(copy.deepcopy(training.engine.average.state_dict()))
        step(batch)

    training._step = failing
    training.run()
    assert training.config.hardware.precision == "32-true"
    assert averages[0]["updates"] == 6
    assert_same(*averages)
    assert training.engine.average.updates == 12


@pytest.mark.parametrize("scale", [(), ("step",)])
def test_the_average_of_weights_in_a_box_is_in_it(scale, tmp_path):
    """Also after noise that leads out of it, and under the longer steps of fewer ones."""
    options = OptimizerConfig(ema=0.9, lr=1.0, box=0.1, box_scale=scale)
    changes = {
        "refine": RefineConfig(epochs=(1,), variance=0.5),
        "rediscretise": RediscretiseConfig(epochs=(2,), controls=(1,), steps=(1,)),
    }
    training = quiet(Small(norm="group"), plan(tmp_path, optimizer=options, epochs=3, **changes))

    def check():
        for name, block in db.network.named_blocks(training.engine.average.net).items():
            longest = max(block.times.sizes) if scale else 1.0
            for weight in block.controls.parameters():
                assert weight.abs().max() <= 0.1 / longest * (1 + 1e-6), name

    change = training._change_network

    def changing(each):
        change(each)
        check()

    training._change_network = changing
    check()
    training.run()
    check()


def test_weights_that_are_frozen_stay(tmp_path):
    """Two steps read two of the four intervals of these controls."""
    task = Small(controls="linear(5)", norm="group")
    training = quiet(task, plan(tmp_path, optimizer=OptimizerConfig(ema=0.9)))
    assert training.engine.frozen
    before = {name: tensor.clone() for name, tensor in training.net.state_dict().items()}
    training.run()
    after = training.engine.average.net.state_dict()
    for name, tensor in after.items():
        frozen = any(name.startswith(f"{prefix}.") for prefix in training.engine.frozen)
        assert torch.equal(tensor, before[name]) == frozen, name


def test_buffers_of_any_kind():
    """Whole numbers are copied; one that the module exchanges is followed; one in two places is moved once."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("seen", torch.tensor(0))
            self.register_buffer("nothing", None)

        def forward(self, x):
            self.mean = self.mean + x
            self.seen = self.seen + 1
            return x

    net = nn.Sequential(Counting(), Counting())
    net[1].mean = net[0].mean
    net[0].register_buffer("shared", torch.zeros(1))
    net[1].register_buffer("shared", net[0].shared)
    average = Average(net, 0.5)
    net(torch.ones(2))
    net[0].shared.add_(1.0)
    average.update()
    torch.testing.assert_close(average.net[0].mean, torch.full((2,), 9 / 11))
    torch.testing.assert_close(average.net[0].shared, torch.full((1,), 9 / 11))
    assert average.net[1].seen.item() == 1


def test_types_too_coarse_for_an_average(tmp_path):
    with pytest.raises(db.ConfigurationError, match=r"in torch.bfloat16 a share of 0.001 is lost.*bf16-mixed"):
        quiet(Small(), plan(tmp_path, precision="bf16-true", optimizer=OptimizerConfig(ema=0.999)))
    assert not (tmp_path / "run").exists()
