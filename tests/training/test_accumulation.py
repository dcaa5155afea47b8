"""Several batches for one step of the optimiser: the same as one batch of all their samples."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dynamicblocks.training import OptimizerConfig, RefineConfig, TrainConfig
from dynamicblocks.training.optimizer import learning_rate
from dynamicblocks.training.storage import read_tree
from tests.training.small_task import Small, assert_same, plan, quiet, stopped

GROUPS = 3


def rates(training):
    """The learning rate of each step of the optimiser, noted while it runs."""
    optimizer, found = training.engine.bare_optimizer, []
    optimizer.register_step_pre_hook(lambda *_: found.append(optimizer.param_groups[0]["lr"]))
    return found


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_small_batches_are_as_one_large_batch(name, tmp_path):
    """With everything that acts on a step of the optimiser: schedule, clipping, box, penalty, decay, average."""
    options = {"name": name, "clip": 0.5, "box": 0.3, "smoothness": 0.1, "ema": 0.9, "weight_decay": 0.1}
    found, steps = [], []
    for run, size, accumulate in (("small", 2, GROUPS), ("large", 2 * GROUPS, 1)):
        optimizer = OptimizerConfig(accumulate=accumulate, **options)
        task = Small(norm="none", batch_size=size)
        training = quiet(task, plan(tmp_path, run, precision="64-true", optimizer=optimizer))
        steps.append(rates(training))
        training.run()
        found.append(read_tree(tmp_path / run / "checkpoint.safetensors"))
    small, large = found
    assert len(steps[0]) == 8
    assert steps[0] == steps[1]
    for part in ("weights", "average"):
        ours, its = ((each["average"]["weights"] if part == "average" else each[part]) for each in (small, large))
        for key, tensor in its.items():
            assert tensor.dtype == torch.float64
            torch.testing.assert_close(ours[key], tensor, rtol=1e-10, atol=1e-12, msg=key)
    assert small["average"]["updates"] == large["average"]["updates"] == 8
    one, other = (
        json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[1]) for run in ("small", "large")
    )
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-10)


def test_the_last_group_of_an_epoch_may_be_smaller(tmp_path):
    """Its mean is over its own batches: of five batches in groups of three, the second step is of two."""
    options = {
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "lr": 0.1,
    }
    optimizer = OptimizerConfig(accumulate=3, **options)
    task = Small(norm="none", samples=10, batch_size=2)
    training = quiet(task, plan(tmp_path, precision="64-true", optimizer=optimizer, epochs=1))
    net = task.build().double()
    net.load_state_dict(training.net.state_dict())
    batches = list(training.batches.training(0))
    assert len(batches) == 5
    for group in (batches[:3], batches[3:]):
        net.zero_grad()
        for batch in group:
            task.loss(net, batch)[0].backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight.sub_(0.1 * weight.grad / len(group))
    count = rates(training)
    training.run()
    assert len(count) == 2
    for key, weight in net.state_dict().items():
        # Fabric hands outputs on in single precision.
        torch.testing.assert_close(training.net.state_dict()[key], weight, rtol=1e-6, atol=1e-7, msg=key)


@pytest.mark.parametrize(("max_steps", "groups"), [(None, 6), (7, 4), (8, 5), (5, 3)])
def test_the_schedule_counts_steps_of_the_optimiser(max_steps, groups, tmp_path):
    """Five batches an epoch in groups of two; a limit cuts the last group."""
    optimizer = OptimizerConfig(accumulate=2, warmup=0.3)
    task = Small(norm="none", samples=20)
    training = quiet(task, plan(tmp_path, optimizer=optimizer, max_steps=max_steps))
    found = rates(training)
    training.run()
    assert found == [learning_rate(optimizer, step, groups) for step in range(groups)]
    entries = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert entries[-1]["learning_rate"] == found[-1]


def test_each_level_has_a_schedule_of_its_own(tmp_path):
    optimizer = OptimizerConfig(accumulate=4, warmup=0.0)
    refine = RefineConfig(epochs=(1,), restart=True)
    training = quiet(Small(norm="none"), plan(tmp_path, optimizer=optimizer, refine=refine, epochs=3))
    found = []
    setting = training._step

    def noted(batch):
        found.append(training.engine.bare_optimizer.param_groups[0]["lr"])
        setting(batch)

    training._step = noted
    training.run()
    # Six batches an epoch: a group of four and one of two.
    expected = [learning_rate(optimizer, step, 2) for step in range(2)]
    expected += [learning_rate(optimizer, step, 4) for step in range(4)]
    assert found == [rate for step, rate in enumerate(expected) for _ in range(2 if step % 2 else 4)]


@pytest.mark.parametrize(("checkpoint_steps", "stored"), [(1, 6), (4, 6), (5, 6), (6, 6)])
def test_checkpoints_lie_between_groups_and_a_run_goes_on_from_there(checkpoint_steps, stored, tmp_path, monkeypatch):
    """It stops after eight batches of ten, within the third group of three."""
    task = Small(samples=20, batch_size=2)
    options = {"optimizer": OptimizerConfig(name="adam", accumulate=3, ema=0.9), "epochs": 1}
    whole = quiet(task, plan(tmp_path, "whole", **options))
    whole.run()
    config = plan(tmp_path, "broken", checkpoint_steps=checkpoint_steps, **options)
    stopped(task, config, 8, monkeypatch)
    resumed = quiet(task, config, resume=tmp_path / "broken")
    assert resumed.state.step == stored
    resumed.run()
    one, other = (read_tree(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "broken"))
    for key in ("weights", "average", "optimizer", "sums"):
        assert_same(one[key], other[key])


def test_without_groups_steps_are_those_of_before(tmp_path):
    """The schedule of plain trainings, as a number for each batch."""
    training = quiet(Small(), plan(tmp_path, max_steps=9))
    assert [training.timetable.updates(step) for step in range(13)] == list(range(13))
    assert TrainConfig().optimizer.accumulate == 1
    found = rates(training)
    training.run()
    assert len(found) == 9
    assert all(math.isfinite(rate) for rate in found)


PROCESS = """
import sys
from pathlib import Path

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from dynamicblocks.training import OptimizerConfig
from tests.training.small_task import Small, plan, quiet

folder, devices, norm = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
optimizer = OptimizerConfig(accumulate=4, ema=0.9, clip=0.5, box=0.5)
config = plan(folder, f"{devices}", precision="64-true", devices=devices, optimizer=optimizer, keep="last")
training = quiet(Small(norm=norm), config)
exchanged = []
if devices > 1:
    training.engine.model._forward_module.register_comm_hook(
        None, lambda state, bucket: exchanged.append(bucket.is_last()) or allreduce_hook(state, bucket)
    )
training.run()
kept = {"average": training.engine.average.net.state_dict(), "exchanged": sum(exchanged)}
torch.save(kept, folder / f"{devices}-{training.fabric.global_rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_two_processes_exchange_gradients_once_a_group(norm, tmp_path):
    """And their averages agree, with each other and with that of one process."""
    (tmp_path / "process.py").write_text(PROCESS)
    root = Path(__file__).parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    # Without a normalisation no statistics depend on the shares of two processes.
    for devices in ("1", "2") if norm == "none" else ("2",):
        command = [sys.executable, str(tmp_path / "process.py"), str(tmp_path), devices, norm]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    first, second = (torch.load(tmp_path / f"2-{rank}.pt") for rank in range(2))
    # Two epochs of six batches: a group of four and one of two.
    assert first["exchanged"] == second["exchanged"] == 4
    assert_same(first["average"], second["average"])
    assert_same(load_file(tmp_path / "2" / "model.safetensors"), dict(first["average"]))
    if norm == "none":
        for key, weight in load_file(tmp_path / "1" / "model.safetensors").items():
            torch.testing.assert_close(first["average"][key], weight, rtol=1e-6, atol=1e-7, msg=key)
