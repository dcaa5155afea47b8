"""What a training goes on from: without rounding, in every precision, wherever it was cut off."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from dynamicblocks.cli.main import main
from dynamicblocks.tasks import DataConfig, ModelConfig, load_run
from dynamicblocks.training import OptimizerConfig
from dynamicblocks.training.checkpoint import checkpoint_of, go_on
from dynamicblocks.training.config import RefineConfig
from dynamicblocks.training.run_folder import RunFolder
from tests.training.small_task import Small, StopError, assert_same, plan, quiet, stopped
from tests.trainings import classification


def left(folder):
    """Everything that a run left but its clock."""
    files = RunFolder(folder)
    result = json.loads((folder / "result.json").read_text())
    return untimed([files.read_checkpoint(), *files.read_weights(), files.metrics(), result])


def untimed(tree):
    if isinstance(tree, dict):
        return {
            key: untimed(each)
            for key, each in tree.items()
            if not str(key).endswith(("seconds", "_per_second", "begun"))
        }
    return [untimed(each) for each in tree] if isinstance(tree, list | tuple) else tree


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_in_double_precision_resumes_without_rounding(optimizer, tmp_path, monkeypatch):
    task = Small(controls="linear", integrator="midpoint")
    changes = {
        "precision": "64-true",
        "optimizer": OptimizerConfig(name=optimizer, ema=0.9, accumulate=2),
        "refine": RefineConfig(epochs=(1,)),
        "checkpoint_steps": 2,
    }
    quiet(task, plan(tmp_path, "whole", **changes)).run()
    cut = plan(tmp_path, "cut", **changes)
    stopped(task, cut, 9, monkeypatch)
    again = quiet(task, cut, resume=tmp_path / "cut")
    assert again.net.state_dict().keys() == again.folder.read_checkpoint()["weights"].keys()
    again.run()
    assert_same(left(tmp_path / "whole"), left(tmp_path / "cut"))


@pytest.mark.parametrize("name", ["write_weights", "append", "write_checkpoint", "write_result"])
def test_a_training_may_be_cut_off_behind_any_file_that_it_writes(name, tmp_path, monkeypatch):
    task, cut = Small(), plan(tmp_path, "cut", keep="best")
    quiet(task, plan(tmp_path, "whole", keep="best")).run()
    write, calls = getattr(RunFolder, name), []
    last = {"append": 2, "write_checkpoint": 3}.get(name, 1)

    def cutting(self, *given):
        write(self, *given)
        calls.append(1)
        if len(calls) == last:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, name, cutting)
        with pytest.raises(StopError):
            quiet(task, cut).run()
    quiet(task, cut, resume=tmp_path / "cut").run()
    assert_same(left(tmp_path / "whole"), left(tmp_path / "cut"))


def test_weights_in_half_precision_go_on_in_float32_where_a_loss_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(Half, "seen", [])  # of the class, for tasks are frozen
    training = quiet(Half(integrator="midpoint"), plan(tmp_path, precision="bf16-true", checkpoint_steps=2))
    outcome = training.run()
    assert {weight.dtype for weight in training.net.parameters()} == {torch.float32}
    assert outcome.test.loss < 10
    event = json.loads((tmp_path / "run" / "events.jsonl").read_text())
    assert (event["from"], event["to"], event["step"]) == ("bf16-true", "32-true", 2)


@dataclass(frozen=True)
class Half(Small):
    """Without a finite loss from the fourth step of a training in half precision on."""

    seen: ClassVar[list[int]] = []

    def loss(self, net, batch):
        loss, sums = super().loss(net, batch)
        half = any(weight.dtype == torch.bfloat16 for weight in net.parameters())
        if half and net.training:  # the rehearsal is one of them
            self.seen.append(1)
        return (loss * float("nan") if half and len(self.seen) > 4 else loss), sums


def test_the_scale_of_losses_in_float16_is_kept(tmp_path, monkeypatch):
    training = quiet(Small(), plan(tmp_path, precision="bf16-mixed"))
    engine, plugin = training.engine, training.fabric.strategy.precision
    # As it is with 16-mixed on a GPU.
    monkeypatch.setattr(plugin, "scaler", torch.amp.GradScaler("cpu", init_scale=8.0))
    stored = checkpoint_of(engine, training.state, {}, "16-mixed")
    monkeypatch.setattr(plugin, "scaler", torch.amp.GradScaler("cpu", init_scale=2.0))
    assert go_on(stored, engine) == training.state
    assert plugin.scaler.get_scale() == 8.0
    go_on({**stored, "scaler": {}}, engine)
    del stored["scaler"]  # as earlier versions wrote it
    go_on(stored, engine)


def test_workers_may_be_others_on_resume(tmp_path):
    config = plan(tmp_path, max_steps=1)
    quiet(Small(), config)
    other = replace(config, hardware=replace(config.hardware, workers=3, precision="auto"))
    again = quiet(Small(), other, resume=tmp_path / "run").config.hardware
    assert (again.workers, again.precision) == (3, "32-true")


def test_a_run_in_double_precision_is_read_and_evaluated_in_it(tmp_path):
    task, config = classification(
        data=DataConfig(train_images=64, batch_size=32),
        model=ModelConfig(name="dynamicnet", widths=(4,), units=1),
        **vars(plan(tmp_path, precision="64-true", epochs=1)),
    )
    outcome = quiet(task, config).run()
    assert_same(dict(outcome.net.state_dict()), dict(load_run(tmp_path / "run").net.state_dict()))
    for flags in ([], ["--precision", "32-true"], ["--precision", "64-true"]):
        assert main(["evaluate", str(tmp_path / "run"), *flags]) == 0
    usual, single, double = map(json.loads, (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines())
    assert usual["loss"] == double["loss"] == pytest.approx(outcome.test.loss, rel=1e-12)
    assert single["loss"] == pytest.approx(outcome.test.loss, rel=1e-4)
    assert single["loss"] != usual["loss"]
