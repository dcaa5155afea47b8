"""What is damaged, edited or of another run is refused by an error that names the file and the place."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.tasks import load_config, load_run
from dynamicblocks.training import RunFolder
from dynamicblocks.training.runs import expected
from dynamicblocks.training.storage import read_tensors, read_tree, write_tensors, write_tree
from tests.training.damaged import copied, trained
from tests.training.faulty_system import Faulty, broken
from tests.training.small_task import assert_same, quiet


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy that may be damaged."""
    return copied(finished, tmp_path / "run")


def refusal(action, *given, **named):
    """The one line by which a run is refused."""
    with pytest.raises(db.StorageError) as found:
        action(*given, **named)
    assert "\n" not in str(found.value)
    return str(found.value)


def resume(run):
    return quiet(*load_config(RunFolder(run).configuration()), resume=run)


def test_one_bit_anywhere_is_noticed(run):
    path = run / "model.safetensors"
    folder, data = RunFolder(run), path.read_bytes()
    before = folder.read_weights()
    header = 8 + int.from_bytes(data[:8], "little")
    same = 0
    for place in [*range(0, header, header // 40), *range(header, len(data), (len(data) - header) // 40)]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = folder.read_weights()
        except db.StorageError:
            continue
        assert_same(before, found)  # of a space, or of the order of names
        assert place < header
        same += 1
    assert same < 8


def test_numbers_are_not_taken_for_others(run):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    assert "checksum" in refusal(load_run, run)


@pytest.mark.parametrize(
    ("value", "said"), [("nan", "not finite"), ("inf", "not finite"), ("3e38", r"beyond 1e+30"), ("-1", "below zero")]
)
def test_numbers_that_no_training_leaves(value, said, run):
    weights, content = read_tensors(run / "model.safetensors")
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = float(value)
    write_tensors(run / "model.safetensors", weights, content)
    assert said in (told := refusal(load_run, run))
    assert name in told
    stored = read_tree(run / "checkpoint.safetensors")
    stored["weights"][name][0] = float(value)
    write_tree(run / "checkpoint.safetensors", stored)
    assert said in refusal(resume, run)


def changed(tree, path, value):
    *parts, last = path
    for part in parts:
        tree = tree[part]
    if value is None:
        del tree[last]
    else:
        tree[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["random"], None, "it has no 'random'"),
        (["position", "epoch"], 3, "its epoch is 3"),
        (["position", "epoch"], "1", "its epoch is '1'"),
        (["position", "seconds"], float("inf"), "its seconds is inf"),
        (["position"], [], "does not fit"),
        (["position", "unknown"], 1, "unknown"),
        (["optimizer", "state", 99], {}, "weight 99"),
        (["optimizer", "state", 0, "momentum_buffer"], torch.ones(3), "momentum_buffer of weight 0 has shape (3,)"),
        (["optimizer", "param_groups", 0, "momentum"], 0.5, "momentum 0.5 in place of 0.9"),
        (["optimizer", "param_groups", 0, "weight_decay"], None, "group of weights without weight_decay"),
        (["optimizer", "param_groups"], [], "other groups of weights"),
        (["average"], None, "average"),
        (["average", "weights", "head.linear.bias"], None, "missing: head.linear.bias"),
        (["weights", "head.linear.bias"], torch.ones(3), "head.linear.bias has shape (3,) in place of (10,)"),
        (["weights", "head.linear.bias"], torch.ones(10, dtype=torch.int32), "torch.int32 in place of torch.float32"),
        (["weights", "other"], torch.ones(3), "unknown: other"),
        (["random", "cpu"], torch.ones(3), "does not fit"),
        (["form", "discretisation"], {"body.7": {}}, "body.7"),
        (["form", "discretisation", "body.0", "times"], 100_000_000, "times of block 'body.0' expects numbers"),
        (["form", "discretisation", "body.0", "size"], 100_000_000, "has 100,000,000 controls"),
        (["form", "discretisation", "body.0", "knots"], [0.0, "1"], "knots of block 'body.0' expects numbers"),
        (["form", "discretisation", "body.0", "integrator"], 7, "integrator of block 'body.0' expects a text"),
        (["sums"], {}, "it has no 'images'"),
        (["config", "optimizer", "lr"], 0.2, "optimizer.lr was 0.2, and"),
        (["config"], {}, "does not say how its run was configured"),
    ],
    ids=str,
)
def test_checkpoints_that_do_not_fit(path, value, said, run):
    stored = read_tree(run / "checkpoint.safetensors")
    changed(stored, path, value)
    write_tree(run / "checkpoint.safetensors", stored)
    assert said in refusal(resume, run)


def test_times_in_a_header_of_weights_are_no_order_for_memory(run):
    weights, content = read_tensors(run / "model.safetensors")
    content["discretisation"]["body.0"]["times"] = 1e8
    write_tensors(run / "model.safetensors", weights, content)
    assert "times of block 'body.0' expects numbers such as [0.5, 1], got 100000000.0" in refusal(load_run, run)


def test_files_of_another_run(run, tmp_path):
    other = trained(tmp_path, "other", epochs=1)
    for name, read in (("model.safetensors", load_run), ("checkpoint.safetensors", resume)):
        mixed = copied(run, tmp_path / "mixed")
        shutil.copy(other / name, mixed / name)
        told = refusal(read, mixed)
        assert f"{name} is not of this configuration: epochs was 1, and" in told
        assert "config.yaml says 2" in told


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("lr: 0.05", "lr: 0.06", "optimizer.lr was 0.05, and"),
        ("units: 1", "units: 2", "model.units was 1, and"),
        ("  units: 1\n", "", "model.units was 1, and"),
        ("units: 1", "units: 1\n  activation: silu", "model.activation was not given, and"),
        ("batch_size: 32", "batch_size: 16", "data.batch_size was 32, and"),
        ("keep: best", "keep: last", "keep was 'best', and"),
    ],
)
def test_an_option_that_was_edited_is_named_with_both_values(before, after, said, run):
    path = run / "config.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    assert said in refusal(load_run, run)
    assert said in refusal(resume, run)


def test_where_things_lie_may_be_edited(run):
    path = run / "config.yaml"
    for before, after in (
        ("run: run", "run: x"),
        ("workers: 0", "workers: 3"),
        ("point_steps: null", "point_steps: 5"),
    ):
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
    load_run(run)
    resume(run)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "must hold an object, got list"),
        ("{", "line 1, column 2"),
        ("[" * 100_000, "more than 64 deep"),
        ('{"a":' * 100 + "1" + "}" * 100, "more than 64 deep"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ('{"format": 1e999}', "too large a number"),
        ('{"format": ' + "9" * 9999 + "}", "is no JSON"),
        ('{"format": 3, "versions": []}', "run.json, versions, must hold an object, got list"),
        ('{"format": 3, "hardware": 7}', "run.json, hardware, must hold an object, got int"),
        ('{"format": []}', "has format []"),
        ('{"format": 4, "versions": {"dynamicblocks": "9.9"}}', "has format 4 (written by dynamicblocks 9.9)"),
    ],
    ids=lambda text: text[:30],
)
def test_damaged_records(text, said, run):
    (run / "run.json").write_text(text)
    told = refusal(load_run, run)
    assert said in told
    assert str(run) in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "must hold an object, got list"),
        ('{"format": 3}', "has no 'content'"),
        ('{"format": 3, "content": {}}', "has no 'sha256'"),
        ('{"format": 2, "content": []}', "must hold an object, got list"),
        ('{"format": 3, "sha256": "0", "content": {}}', "checksum"),
        ("[" * 5000, "more than 64 deep"),
    ],
)
@pytest.mark.parametrize("name", ["model", "checkpoint"])
def test_damaged_headers(name, text, said, run):
    path = run / f"{name}.safetensors"
    save_file(load_file(path), path, metadata={"dynamicblocks": text})
    told = refusal(load_run if name == "model" else resume, run)
    assert said in told
    assert path.name in told


@pytest.mark.parametrize("line", ["{}", "[]", '{"epoch": -1}', '{"epoch": 0, "seconds": []}', "", "[" * 5000])
def test_damaged_metrics(line, run):
    (run / "metrics.jsonl").write_text(f'{{"epoch": 0}}\n{line}\n')
    assert "metrics.jsonl, line 2," in refusal(resume, run)


def test_files_that_are_none(run):
    record = run / "run.json"
    record.unlink()
    os.mkfifo(record)
    assert "is no regular file" in refusal(load_run, run)
    record.unlink()
    with record.open("wb") as file:
        file.truncate(10**12)  # of holes
    assert "files of its kind have at most" in refusal(load_run, run)
    record.unlink()
    record.symlink_to("/dev/zero")
    assert "is no regular file" in refusal(load_run, run)


def test_a_header_is_not_longer_than_its_file(run):
    path = run / "model.safetensors"
    data = path.read_bytes()
    for claimed in (2**40, len(data), 2**63):
        path.write_bytes(claimed.to_bytes(8, "little") + data[8:])
        assert f"promise a header of {claimed:,} bytes" in refusal(load_run, run)


def test_a_run_that_is_through_is_not_resumed(run, capsys, monkeypatch):
    monkeypatch.setattr("dynamicblocks.tasks.classify.Classify.load", lambda _: pytest.fail("data were read"))
    before = (run / "result.json").read_bytes()
    assert main(["train", "--resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert "is finished, test accuracy" in out
    assert (run / "result.json").read_bytes() == before
    task, config = load_config(run / "config.yaml")
    stored = read_tree(run / "checkpoint.safetensors")
    stored["position"]["epoch"] = 1
    write_tree(run / "checkpoint.safetensors", stored)
    assert RunFolder(run).finished(expected(task, config), config) is None


def test_a_run_that_may_only_be_read_is_read(run, capsys, monkeypatch):
    flags = ["--accelerator", "cpu"]
    for command in (["evaluate", *flags], ["converge", *flags, "--factors", "[1]"], ["operators"]):
        with monkeypatch.context() as patch:
            broken(patch, Faulty(1, errno.EROFS, stays=True))
            assert main([command[0], str(run), *command[1:]]) == 0
        out = capsys.readouterr().out
        assert "cannot be written: Read-only file system; what is printed here is all there is" in out
    assert not (run / "evaluations.jsonl").exists()


def test_figures_that_are_not_finite_are_null(run):
    score = db.training.Score({"loss": float("nan"), "accuracy": 0.5}, samples=2, seconds=1.0)
    RunFolder(run).append("evaluations.jsonl", score.as_record("images"))
    assert json.loads((run / "evaluations.jsonl").read_text()) == {
        "loss": None,
        "accuracy": 0.5,
        "images": 2,
        "seconds": 1.0,
    }
    assert "cannot be written as JSON" in refusal(RunFolder(run).append, "events.jsonl", {"loss": float("inf")})


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
def test_a_run_is_not_called_through_whose_network_is_lost(name, run, capsys):
    (run / name).write_bytes((run / name).read_bytes()[:-1])
    assert main(["train", "--resume", str(run)]) == 1
    assert f"{run / name} is truncated" in capsys.readouterr().err


NAMES = ("model.safetensors", "config.yaml", "run.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "endless", "sparse"])
def test_something_else_in_the_place_of_a_file(name, kind, run, capsys):
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    assert str(run) in refusal(load_run, run)
    assert main(["train", "--resume", str(run)]) == 1
    assert main(["runs", str(run)]) == 0
    capsys.readouterr()
