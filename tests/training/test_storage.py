"""Files: what is read is what was written, and anything else is a clear error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import dynamicblocks as db
from dynamicblocks.training import RunFolder
from dynamicblocks.training.storage import check_finite, read_tensors, read_tree, write_tensors, write_text, write_tree


def test_a_tree_comes_back_as_it_was(tmp_path):
    shared = torch.arange(6.0)
    tree = {
        "state": {0: {"momentum": torch.randn(2, 3)}, 7: {"step": 3}},
        "groups": [{"lr": 0.1, "params": [0, 7]}],
        "views": [shared[:3], shared[3:]],
        "none": None,
        "bytes": torch.get_rng_state(),
    }
    write_tree(tmp_path / "tree.safetensors", tree)
    back = read_tree(tmp_path / "tree.safetensors")
    assert back["state"][7] == {"step": 3}
    assert back["groups"] == tree["groups"]
    assert back["none"] is None
    assert torch.equal(back["state"][0]["momentum"], tree["state"][0]["momentum"])
    assert torch.equal(back["views"][1], shared[3:])
    assert torch.equal(back["bytes"], tree["bytes"])


def test_weights_are_an_ordinary_safetensors_file(tmp_path):
    net = db.create_model("dynamicnet", widths=(4,)).to(memory_format=torch.channels_last)
    write_tensors(tmp_path / "model.safetensors", net.state_dict(), {"config": {"seed": 1}})
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == net.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("dynamicblocks.training.disk.os.fsync", broken)
    with pytest.raises(db.StorageError, match=r"file\.txt cannot be written: disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(db.StorageError, match="does not exist"):
        read_tensors(path)
    write_tensors(path, {"x": torch.ones(100)}, None)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(db.StorageError, match="truncated or not a safetensors file"):
        read_tensors(path)
    path.write_bytes(b"")
    with pytest.raises(db.StorageError, match="truncated or not a safetensors file"):
        read_tensors(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(db.StorageError, match="not written by dynamicblocks"):
        read_tensors(path)
    save_file({"x": torch.ones(1)}, path, metadata={"dynamicblocks": "{"})
    with pytest.raises(db.StorageError, match="damaged header"):
        read_tensors(path)
    save_file({"x": torch.ones(1)}, path, metadata={"dynamicblocks": json.dumps({"format": 99})})
    with pytest.raises(db.StorageError, match="has format 99, this version reads format 2 and 3"):
        read_tensors(path)


def test_weights_that_are_not_finite():
    with pytest.raises(db.StorageError, match=r"model\.safetensors holds weights that are not finite: b"):
        check_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, "model.safetensors")


def test_run_folders(tmp_path):
    path = tmp_path / "run"
    folder = RunFolder.create(path, {"epochs": 3}, {"weights": 5})
    assert RunFolder.open(path).record()["weights"] == 5
    with pytest.raises(db.ConfigurationError, match=r"exists already.*--resume"):
        RunFolder.create(path, {}, {})
    with pytest.raises(db.StorageError, match="has no checkpoint"):
        folder.read_checkpoint()
    for epoch in range(3):
        folder.append("metrics.jsonl", {"epoch": epoch})
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    folder.forget_epochs(2)
    assert [entry["epoch"] for entry in folder.metrics()] == [0, 1]
    (path / "metrics.jsonl").write_text('{"epo\n{"epoch": 1}\n')
    with pytest.raises(db.StorageError, match="line 1, is no JSON"):
        folder.metrics()


def test_damaged_run_folders(tmp_path):
    with pytest.raises(db.StorageError, match="there is no run folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(db.StorageError, match=r"run\.json is missing"):
        RunFolder.open(tmp_path)
    record = tmp_path / "run.json"
    record.write_text("{")
    with pytest.raises(db.StorageError, match="cannot be read"):
        RunFolder.open(tmp_path)
    record.write_text("[]")
    with pytest.raises(db.StorageError, match="must hold an object, got list"):
        RunFolder.open(tmp_path)
    record.write_text(json.dumps({"format": 7, "versions": {"dynamicblocks": "9.9"}}))
    with pytest.raises(db.StorageError, match=r"has format 7 \(written by dynamicblocks 9\.9\)"):
        RunFolder.open(tmp_path)
    record.write_text(json.dumps({"format": 2}))
    with pytest.raises(db.StorageError, match=r"config\.yaml is missing"):
        RunFolder.open(tmp_path).configuration()
