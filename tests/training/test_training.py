"""Training through the command line and the library: what it learns, writes, resumes and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.tasks import Classify, ModelConfig
from dynamicblocks.training import OptimizerConfig, Training
from dynamicblocks.training.optimizer import learning_rate, make_optimizer
from dynamicblocks.training.runs import run_name
from dynamicblocks.training.storage import read_tensors, read_tree, write_tensors, write_tree
from dynamicblocks.training.training_state import TrainingState
from tests.training.small_task import StopError
from tests.trainings import classification

MODEL = ["--model.units", "1", "--model.layer", "preact_single"]
SMALL = [*MODEL, "--model.widths", "[8,16]", "--data.shift", "0", "--data.batch_size", "32"]


def train(tmp_path, *flags, run="run"):
    return main(["train", "--output", str(tmp_path), "--run", run, *SMALL, *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(folder, "--epochs", "3", "--table", "full") == 0
    return folder / "run"


def weights_equal(first, second):
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_folder_holds_all_that_made_it(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
        "result.json",
    }
    record = json.loads((finished / "run.json").read_text())
    # Some builds name their CUDA in the module alone.
    assert record["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"hardware", "data", "weights", "started", "device"} <= record.keys()
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in metrics] == [0, 1, 2]
    assert metrics[2]["accuracy"] > 0.5
    assert metrics[2]["loss"] < metrics[0]["loss"]
    result = json.loads((finished / "result.json").read_text())
    assert result["test_images"] == 360
    assert len(result["manifestations"]) == 9
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["widths"] == [8, 16]


def test_the_configuration_of_a_run_makes_the_same_run_again(finished, tmp_path):
    config = str(finished / "config.yaml")
    assert main(["train", "--config", config, "--output", str(tmp_path), "--run", "again"]) == 0
    assert weights_equal(finished / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_the_reported_accuracy_is_that_of_the_stored_weights(finished, capsys):
    assert main(["evaluate", str(finished), "--integrator", "midpoint"]) == 0
    lines = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
    result = json.loads((finished / "result.json").read_text())
    assert lines[0]["accuracy"] == pytest.approx(result["test_accuracy"])
    assert "evaluations.jsonl" in capsys.readouterr().out


def test_other_manifestations_are_evaluated(finished, capsys):
    (finished / "evaluations.jsonl").unlink(missing_ok=True)
    assert main(["evaluate", str(finished), "--integrator", "rk4", "--steps", "16", "--split", "validation"]) == 0
    lines = [json.loads(line) for line in (finished / "evaluations.jsonl").read_text().splitlines()]
    assert (lines[1]["integrator"], lines[1]["steps"], lines[1]["evaluations"]) == ("rk4", [16, 16], 128)
    assert lines[1]["images"] == 144
    assert "as asked" in capsys.readouterr().out


def test_output_says_what_came_out_and_what_to_do_next(tmp_path, capsys):
    assert train(tmp_path, "--epochs", "1") == 0
    out = capsys.readouterr().out
    for part in (
        "Test accuracy",
        "(360 images, read once)",
        "midpoint (trained)",
        "Run written to",
        "dynamicblocks eval",
    ):
        assert part in out


def small_config(tmp_path, **changes):
    model = ModelConfig(name="dynamicnet", widths=(4,), units=1, layer="preact_single")
    return classification(**{"model": model, "epochs": 2, "output": str(tmp_path), "run": "run", **changes})


def kill_in_an_epoch(command, folder, env):
    """Start a training and kill it without warning in its second epoch."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    deadline = time.time() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 1) and time.time() < deadline:
        time.sleep(0.002)
    time.sleep(0.15)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "result.json").exists()


# At any moment, where tests/tasks/test_killed.py kills behind a step that it chose.
@pytest.mark.slow
@pytest.mark.parametrize("controls", ["constant", "linear"])
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(controls, tmp_path):
    flags = [
        *SMALL[2:],
        "--model.widths",
        "[24]",
        "--model.controls",
        controls,
        "--epochs",
        "3",
        "--data.batch_size",
        "16",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dynamicblocks.cli.main", "train", *flags, "--output", str(tmp_path)]
    subprocess.run([*command, "--run", "whole"], env=env, check=True, stdout=subprocess.DEVNULL)
    kill_in_an_epoch([*command, "--run", "killed", "--checkpoint_steps", "5"], tmp_path / "killed", env)
    resume = [sys.executable, "-m", "dynamicblocks.cli.main", "train", "--resume", str(tmp_path / "killed")]
    subprocess.run(resume, env=env, check=True, stdout=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert weights_equal(whole / "model.safetensors", killed / "model.safetensors")
    last, resumed = (read_tree(run / "checkpoint.safetensors") for run in (whole, killed))
    for name, tensor in last["weights"].items():
        assert torch.equal(resumed["weights"][name], tensor), name
    for key, state in last["optimizer"]["state"].items():
        assert torch.equal(resumed["optimizer"]["state"][key]["momentum_buffer"], state["momentum_buffer"])
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, killed)
    ]
    assert losses[0] == losses[1]
    results = [json.loads((run / "result.json").read_text())["test_accuracy"] for run in (whole, killed)]
    assert results[0] == results[1]


def test_dropout_is_resumed_with_the_same_draws(tmp_path):
    def build(self):
        layer = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Dropout(0.5))
        block = db.DynamicBlock(layer, 2)
        return db.DynamicNet(db.Opening(1, 4), [block], db.Head(4, 10))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classify, "build", build)
        whole = Training(*small_config(tmp_path, run="whole"))
        whole.run()
        broken = Training(*small_config(tmp_path, run="broken", checkpoint_steps=3))
        patch.setattr(broken.folder.__class__, "append", lambda *_: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            broken.run()
        patch.undo()
        patch.setattr(Classify, "build", build)
        resumed = Training(*small_config(tmp_path, run="broken", checkpoint_steps=3), resume=tmp_path / "broken")
        assert resumed.state.step == 18
        resumed.run()
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name]), name


@pytest.mark.parametrize(
    "flags",
    [
        ["--hardware.precision", "bf16-mixed"],
        ["--hardware.channels_last", "true"],
        ["--optimizer.smoothness", "1e-3", "--optimizer.clip", "1", "--optimizer.schedule", "constant"],
        ["--model.gradient", "checkpoint", "--optimizer.label_smoothing", "0.1"],
        ["--model.controls", "linear", "--model.integrator", "euler"],
        ["--model.gradient", "reversible(max_drift=1e-2)", "--model.integrator", "alf"],
        ["--data.progressive", "[[0,6],[0.5,8]]", "--data.flip", "true", "--data.cutout", "2"],
    ],
    ids=lambda flags: flags[0].lstrip("-"),
)
@pytest.mark.usefixtures("without_manifestations")
def test_options_of_a_training(flags, tmp_path):
    assert train(tmp_path, "--epochs", "2", *flags) == 0
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["accuracy"] > 0.3


def test_two_processes_train_together(tmp_path):
    flags = ["--model.norm", "group(groups=2)", "--epochs", "1", "--hardware.accelerator", "cpu", "--table", "none"]
    assert train(tmp_path, *flags, run="one") == 0
    command = [sys.executable, "-m", "dynamicblocks.cli.main", "train", *SMALL, *flags, "--output", str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [*command, "--run", "two", "--hardware.devices", "2"]
    subprocess.run(two, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    one_weights, two_weights = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name, tensor in one_weights.items():
        torch.testing.assert_close(two_weights[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    one, two = (json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-2)


def test_strategies_that_split_the_weights_are_refused(monkeypatch, tmp_path, capsys):
    sharded = SimpleNamespace(strategy=object())
    monkeypatch.setattr("dynamicblocks.training.hardware.Fabric", lambda **_: sharded)
    assert train(tmp_path, "--hardware.strategy", "fsdp") == 2
    assert "strategy 'fsdp' splits the weights among processes" in capsys.readouterr().err


def test_runs_that_begin_in_the_same_second_have_names_of_their_own(tmp_path, monkeypatch):
    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("dynamicblocks.training.runs.datetime", Still)
    task, config = classification(output=str(tmp_path))
    names = []
    for _ in range(3):
        names.append(run_name(task, config))
        (tmp_path / names[-1]).mkdir()
    assert names == [f"20260102-030405-{task.title}{end}" for end in ("", "-2", "-3")]
    assert run_name(task, replace(config, output="x" * 5000)) == names[0]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_training_stores_plain_names(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    assert train(tmp_path, "--epochs", "1", "--hardware.compile", "true") == 0
    names = load_file(tmp_path / "run" / "model.safetensors")
    assert not any("_orig_mod" in name for name in names)


def test_a_loss_that_explodes_is_an_error_that_says_what_to_try(tmp_path, capsys):
    assert train(tmp_path, "--epochs", "3", "--optimizer.lr", "1e30", "--model.norm", "none") == 1
    error = capsys.readouterr().err
    assert "the loss is not finite in epoch" in error
    assert "--optimizer.lr" in error


def test_damaged_runs(finished, tmp_path, capsys):
    import shutil

    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    weights = (run / "model.safetensors").read_bytes()

    def failure(*arguments):
        assert main(list(arguments)) == 1
        return capsys.readouterr().err

    (run / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "truncated" in failure("evaluate", str(run))
    (run / "model.safetensors").unlink()
    assert "does not exist" in failure("evaluate", str(run))
    tensors = load_file(finished / "model.safetensors")
    _, header = read_tensors(finished / "model.safetensors")
    write_tensors(run / "model.safetensors", {**tensors, "head.linear.bias": torch.full((10,), float("nan"))}, header)
    assert "not finite: head.linear.bias" in failure("evaluate", str(run))
    write_tensors(run / "model.safetensors", {"other": torch.ones(1)}, header)
    assert "do not fit the network" in failure("evaluate", str(run))
    write_tensors(run / "model.safetensors", tensors, {**header, "discretisation": {"body.7": {}}})
    assert "do not fit the network" in failure("evaluate", str(run))
    write_tensors(run / "model.safetensors", tensors, {})
    assert "does not say how its blocks are discretised" in failure("evaluate", str(run))
    write_tree(run / "checkpoint.safetensors", {"weights": {}, "sums": torch.zeros(3)})
    assert "is damaged: it has no 'position'" in failure("train", "--resume", str(run))
    (run / "config.yaml").write_text("epochs: many\n")
    assert "no configuration of this version" in failure("evaluate", str(run))
    (run / "run.json").write_text('{"format": 0}')
    assert "has format 0" in failure("evaluate", str(run))
    assert "there is no run folder" in failure("evaluate", str(tmp_path / "none"))
    assert "there is no run folder" in failure("train", "--resume", str(tmp_path / "none"))


def test_resuming_takes_no_other_options(finished, capsys):
    assert main(["train", "--resume", str(finished), "--epochs", "9"]) == 2
    assert "takes no other options" in capsys.readouterr().err


def test_resuming_a_finished_run_repeats_its_result(finished):
    def result():
        found = json.loads((finished / "result.json").read_text())
        for each in found["manifestations"]:
            del each["images_per_second"]
        return found

    before = result()
    assert main(["train", "--resume", str(finished)]) == 0
    assert result() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.name", "resnt20"], "did you mean 'resnet20'"),
        (["--model.integrator", "rk44"], "did you mean 'rk4'"),
        (["--data.name", "digit"], "did you mean 'digits'"),
        (
            ["--model.depth", "20"],
            "models that have it: hamiltonian_resnet",
        ),
        (["--model.norm", "bach"], "did you mean 'batch'"),
        (["--model.boundary", "zero"], "did you mean 'zeros'"),
        (["--model.activation", "rel"], "did you mean 'relu'"),
        (["--model.controls", "linear(1)"], "at least 2, got 1"),
        (["--model.gradient", "checkpoints"], "did you mean 'checkpoint'"),
        (["--model.steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1, got 0"),
        (["--optimizer.lr", "-1"], "optimizer.lr must be zero or more and finite, got -1.0"),
        (["--optimizer.momentum", "1"], "optimizer.momentum must be below 1"),
        (["--hardware.accelerator", "cuda:7"], "cannot use accelerator 'cuda:7'"),
        (["--hardware.precision", "half"], "Precision 'half' is invalid"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_usage_errors_that_leave_nothing_behind(flags, message, tmp_path, capsys):
    code = main(["train", "--output", str(tmp_path / "runs"), *flags])
    assert (code, message in capsys.readouterr().err) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "train,predict,sample,runs,evaluate,converge,compress"),
        (["trian"], "invalid choice: 'trian'"),
        (["evaluate"], "run"),
    ],
)
def test_wrong_commands_are_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "many"], "--epochs expects a whole number, got 'many'"),
        (["--epoch_count", "3"], "--epoch_count: there is no such option"),
    ],
)
def test_wrong_flags_are_usage_errors(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_configuration_with_an_unknown_key_is_refused(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 2\nmodel:\n  widht: 3\n")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(path)])
    assert stop.value.code == 2
    assert "widht" in capsys.readouterr().err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(db.ConfigurationError):
        main(["train", "--epochs", "0", "--debug", "--output", str(tmp_path)])


def test_an_interrupt_before_there_is_a_run_names_none(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dynamicblocks.cli.train.Training", interrupted)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", ["train", "evaluate", "converge", "compress", "models", "integrators", "methods"])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "Example: dynamicblocks " + command in capsys.readouterr().out


def test_listings(capsys):
    assert main(["models"]) == 0
    assert "251,866" in capsys.readouterr().out
    assert main(["models", "resnet20"]) == 0
    assert "shortcut" in capsys.readouterr().out
    assert main(["models", "resnet21"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["methods"]) == 0
    assert "kvaerno5" in capsys.readouterr().out
    assert main(["methods", "alf"]) == 0
    assert "step_size" in capsys.readouterr().out
    assert main(["integrators"]) == 0
    assert "rk4_classic" in capsys.readouterr().out


def test_learning_rates():
    config = OptimizerConfig(lr=2.0, warmup=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[19] == rates[20] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[99] < 0.01
    assert learning_rate(OptimizerConfig(lr=2.0, warmup=0.2, schedule="constant"), 99, 100) == 2.0
    line = OptimizerConfig(lr=2.0, warmup=0.2, schedule="linear")
    assert learning_rate(line, 40, 100) == pytest.approx(1.5)
    steps = OptimizerConfig(lr=2.0, warmup=0.0, schedule="steps", decay=0.1, decay_epochs=(30, 60))
    rates = [learning_rate(steps, 10 * epoch, 1000, epoch) for epoch in (0, 29, 30, 59, 60, 99)]
    assert rates == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])


def test_only_matrices_and_kernels_decay():
    net = db.create_model("dynamicnet", widths=(4,), units=1)
    decaying, free = make_optimizer(net, OptimizerConfig(weight_decay=0.1)).param_groups
    assert decaying["weight_decay"] == 0.1
    assert free["weight_decay"] == 0
    assert all(weight.ndim > 1 for weight in decaying["params"])
    assert len(decaying["params"]) + len(free["params"]) == len(list(net.parameters()))
    groups = make_optimizer(net, OptimizerConfig(weight_decay=0.1, decay_all=True)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1]


def test_the_checkpoint_is_chosen_on_validation_images(tmp_path):
    training = Training(*small_config(tmp_path, epochs=3))
    outcome = training.run()
    metrics = [json.loads(line) for line in (Path(tmp_path) / "run" / "metrics.jsonl").read_text().splitlines()]
    best = min(metrics, key=lambda entry: entry["validation_loss"])
    assert outcome.kept_epoch == best["epoch"]
    assert outcome.validation["accuracy"] == best["validation_accuracy"]


def test_the_last_weights_are_kept_where_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingState, "improved_by", lambda position, score: position.epoch == 0)
    training = Training(*small_config(tmp_path, epochs=3, keep="last"))
    outcome = training.run()
    assert outcome.kept_epoch == 2
    stored = load_file(outcome.folder / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in training.net.state_dict().items())
