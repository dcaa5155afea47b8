"""A task of one's own on the command line: its file is asked for each time, and nothing else is ever imported."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from dynamicblocks.cli.main import main
from dynamicblocks.tasks import load_run, own_task

FILE = Path(__file__).parents[2] / "examples" / "own_task.py"
TASK = ["--task", f"{FILE}:NextValue"]
ON_CPU = ["--accelerator", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("own")
    # A flag of the task has the name of a published one of the classification of images.
    flags = ["--batch_size", "400", "--optimizer.lr", "0.02", "--epochs", "2", "--hardware.accelerator", "cpu"]
    flags += ["--table", "full"]
    assert main(["train", *TASK, *flags, "--output", str(folder), "--run", "run"]) == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def exit_code(arguments):
    """What the program ends with, whether it returns or exits."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


def said(capsys):
    """What was written to both streams, in one line each."""
    return [" ".join(text.split()) for text in capsys.readouterr()]


def test_the_file_is_short():
    assert len(FILE.read_text().splitlines()) <= 60


def test_a_run_stores_name_and_hash_and_no_path(finished):
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["task"] == {"name": "NextValue", "sha256": digest}
    assert (config["past"], config["batch_size"]) == (6, 400)
    for file in finished.iterdir():
        assert b"own_task" not in file.read_bytes(), file
    epoch = lines(finished / "metrics.jsonl")[-1]
    assert {"loss", "relative_error", "validation_loss", "validation_relative_error", "windows_per_second"} <= set(
        epoch
    )
    result = json.loads((finished / "result.json").read_text())
    assert result["test_windows"] == 550
    assert result["manifestations"][3]["relative_error"] == result["test_relative_error"]


def test_it_is_evaluated(run, capsys):
    assert main(["evaluate", str(run), *TASK, *ON_CPU, "--integrator", "rk4"]) == 0
    trained, asked = lines(run / "evaluations.jsonl")
    result = json.loads((run / "result.json").read_text())
    assert trained["relative_error"] == pytest.approx(result["test_relative_error"])
    assert (trained["windows"], asked["integrator"]) == (550, "rk4")
    out, _ = said(capsys)
    assert "on 550 test windows" in out
    assert "relative error" in out
    assert "accuracy" not in out
    assert "Note" not in out


def test_it_converges_and_is_compressed(run, tmp_path, capsys):
    assert main(["converge", str(run), *TASK, *ON_CPU, "--integrators", "[euler]", "--factors", "[1,2]"]) == 0
    found = json.loads((run / "convergence.json").read_text())["runs"][0]["manifestations"]
    assert [each["evaluations"] for each in found] == [4, 8]
    assert (run / "convergence.png").stat().st_size > 0
    small = str(tmp_path / "small")
    bounds = ["--tolerance", "50%", "--integrators", "[euler]"]
    assert main(["compress", str(run), *TASK, *ON_CPU, *bounds, "--to", small]) == 0
    result = json.loads((tmp_path / "small" / "result.json").read_text())
    assert list(result["scores"]) == ["validation windows", "changed training windows"]  # it knows no answers
    before, after = result["test"]
    assert after["evaluations"] < before["evaluations"] == 8
    out, _ = said(capsys)
    assert "by their relative error on" in out
    assert f"{small} {' '.join(TASK)}" in out
    assert main(["evaluate", small, *TASK, *ON_CPU]) == 0
    assert lines(Path(small) / "evaluations.jsonl")[0]["relative_error"] == pytest.approx(after["relative_error"])


@pytest.mark.parametrize(
    "command", ["evaluate", "converge", "compress", "operators", "train --resume", "train --config"]
)
def test_it_is_asked_for_again(command, run, tmp_path, capsys):
    path = run / "config.yaml" if "config" in command else run
    assert main([*command.split(), str(path), *(["--output", str(tmp_path)] if "config" in command else [])]) == 2
    _, error = said(capsys)
    assert "is of a task of its own, NextValue" in error
    assert "add --task FILE.py:NextValue" in error


def test_it_resumes_and_begins_anew_from_its_configuration(run, tmp_path):
    before = json.loads((run / "result.json").read_text())
    assert main(["train", *TASK, "--resume", str(run)]) == 0
    after = json.loads((run / "result.json").read_text())
    assert after["test_loss"] == before["test_loss"]
    assert not (run / "events.jsonl").exists()
    again = ["--config", str(run / "config.yaml"), "--output", str(tmp_path), "--run", "again", "--max_steps", "2"]
    assert main(["train", *TASK, *again]) == 0
    assert lines(tmp_path / "again" / "metrics.jsonl")[0]["epoch"] == 0


def test_another_file_is_noted_and_recorded(run, tmp_path, capsys):
    changed = tmp_path / "changed.py"
    changed.write_text(FILE.read_text() + "# Mended.\n")
    task = ["--task", f"{changed}:NextValue"]
    assert main(["evaluate", str(run), *task, *ON_CPU]) == 0
    assert said(capsys)[0].count("Note: the file of the task NextValue has changed since the run began") == 1
    assert main(["train", *task, "--resume", str(run)]) == 0
    assert "Note: the file of the task NextValue has changed" in said(capsys)[0]
    (event,) = lines(run / "events.jsonl")
    assert event["event"] == "task"
    assert (event["from"]["name"], event["to"]["name"]) == ("NextValue", "NextValue")
    assert event["to"]["sha256"] == hashlib.sha256(changed.read_bytes()).hexdigest() != event["from"]["sha256"]


def test_another_task_is_an_error(run, tmp_path, capsys):
    other = tmp_path / "other.py"
    other.write_text(FILE.read_text().replace("NextValue", "Another"))
    assert main(["evaluate", str(run), "--task", f"{other}:Another"]) == 2
    assert "is of the task NextValue, not of Another" in said(capsys)[1]
    assert main(["evaluate", str(run), "--task", "classify"]) == 2
    assert "is of the task NextValue, not of Classify" in said(capsys)[1]
    assert main(["evaluate", str(run), "--task", f"{FILE}:NextVal"]) == 2
    assert "did you mean 'NextValue'" in said(capsys)[1]


def test_a_run_in_double_precision_is_read_in_any(tmp_path):
    where = ["--output", str(tmp_path), "--run", "run", "--hardware.accelerator", "cpu"]
    short = ["--epochs", "1", "--max_steps", "2", "--optimizer.lr", "0.01", "--hardware.precision", "64-true"]
    assert main(["train", *TASK, *where, *short]) == 0
    run = str(tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model.safetensors")
    net = load_run(tmp_path / "run", own=own_task(TASK[1])).net
    assert all(torch.equal(tensor, stored[name]) for name, tensor in net.state_dict().items())
    for precision in ([], ["--precision", "64-true"]):
        assert main(["evaluate", run, *TASK, *ON_CPU, *precision]) == 0
    single, double = (entry["loss"] for entry in lines(tmp_path / "run" / "evaluations.jsonl"))
    assert single == pytest.approx(double, rel=1e-5)
    bounds = ["--integrators", "[euler]", "--tolerance", "50%", "--precision", "64-true"]
    assert main(["compress", run, *TASK, *ON_CPU, *bounds]) == 0


EVIL = "evil.py:Evil"


@pytest.mark.parametrize(
    "doctored",
    [
        {"task": EVIL},
        {"task": {"name": EVIL, "sha256": "0"}},
        {"task": {"name": "Evil", "sha256": "0", "file": "evil.py", "class_path": "evil.Evil"}},
        {"task": {"class_path": "evil.Evil"}},
        {"class_path": "evil.Evil"},
        {"past": {"class_path": "evil.Evil"}},
        {"optimizer": "evil.Evil"},
        {"optimizer": {"class_path": "evil.Evil", "init_args": {"lr": 0.1}}},
        {"optimizer": {"name": {"class_path": "evil.Evil"}}},
        {"hardware": {"class_path": "evil.Evil"}},
        {"model": "evil.Evil"},
        "!!python/object/apply:evil.Evil []",
    ],
    ids=str,
)
def test_nothing_that_stands_in_a_run_is_imported(doctored, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "evil.py").write_text("import sys\nsys.evil = True\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = run / "config.yaml"
    if isinstance(doctored, str):
        config.write_text(f"{config.read_text()}past: {doctored}\n")
    else:
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **doctored}))
    for command in (["evaluate", str(run)], ["train", "--resume", str(run)], ["train", "--config", str(config)]):
        for task in ([], TASK):
            out = ["--run", "none"] if "--config" in command else []
            assert exit_code([*command, *task, *out]) in (1, 2)
            assert said(capsys)[1].startswith("error: ")
    assert not hasattr(sys, "evil")
    assert "evil" not in sys.modules
