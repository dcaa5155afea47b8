"""Whatever a disk says, at whichever call: one typed error, what was written before, and nothing half-written."""

import os

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.training import RunFolder, disk
from dynamicblocks.training.disk import ReadOnlyError
from tests.training.faulty_system import ERRORS, Faulty, Short, broken
from tests.training.small_task import Small, plan, quiet

MANY = 100


def state(value):
    return {"weights": {"a": torch.full((300,), float(value))}, "position": {"epoch": value}}


def make(path, **options):
    return RunFolder.create(path, {"epochs": 3}, {}, lambda folder: folder.write_checkpoint(state(0)), **options)


def faults():
    """Systems with one fault each, the first at the first call, until one comes after the last call."""
    for call in range(1, MANY):
        error = ERRORS[call % len(ERRORS)]
        yield Faulty(call, error)
        yield Faulty(call, error, stays=True)
    raise AssertionError("there is no end to the calls")


def every_fault(monkeypatch, action, afterwards):
    """Do something under every fault: it fails each time, until the fault comes after all is done."""
    found = 0
    for system in faults():
        with monkeypatch.context() as patch:
            broken(patch, system)
            if not failed(action, system):
                return found
        found += 1
        afterwards()
    return found


def failed(action, system):
    """Whether an action failed, as it must if the fault came before its end."""
    error = None
    try:
        action()
    except db.StorageError as raised:
        error = raised
    assert (error is None) == (system.calls < system.call)
    if error is not None:
        assert os.strerror(system.error) in str(error)
        assert "\n" not in str(error)
        assert isinstance(error, ReadOnlyError) == (system.error in disk.ONLY_READ)
    return error is not None


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    folder = make(tmp_path / "run")

    def untouched():
        assert folder.read_checkpoint()["position"] == {"epoch": 0}
        assert {entry.name for entry in folder.path.iterdir()} == {
            "config.yaml",
            "run.json",
            "checkpoint.safetensors",
        }

    # The last two are of the folder itself, when the new one has its name already.
    def afterwards():
        if folder.read_checkpoint()["position"] == {"epoch": 1}:
            folder.write_checkpoint(state(0))
        untouched()

    assert every_fault(monkeypatch, lambda: folder.write_checkpoint(state(1)), afterwards) >= 8
    assert folder.read_checkpoint()["position"] == {"epoch": 1}


def test_a_run_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    def nothing():
        assert list(tmp_path.iterdir()) == []

    assert every_fault(monkeypatch, lambda: make(tmp_path / "deep" / "run"), nothing) >= 30
    assert RunFolder.open(tmp_path / "deep" / "run").read_checkpoint()["position"] == {"epoch": 0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["deep"]
    assert not (tmp_path / "deep" / "run" / "lock").exists()


def test_a_line_is_added_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", {"epoch": 0})

    def one():
        assert [entry["epoch"] for entry in folder.metrics()] == [0]

    assert every_fault(monkeypatch, lambda: folder.append("metrics.jsonl", {"epoch": 1}), one) >= 6
    assert [entry["epoch"] for entry in folder.metrics()] == [0, 1]


@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_is_written_short_is_noticed(call, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        broken(patch, Short(call))
        with pytest.raises(db.StorageError, match=r"only \d+ of \d+ bytes are on the disk"):
            make(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_crash_cut_short_is_taken_off_before_the_next(tmp_path):
    folder = RunFolder(tmp_path)
    path = tmp_path / "metrics.jsonl"
    for torn in ("", '{"epoch": 0}\n{"epo', "x" * 10_000):
        path.write_text(torn)
        folder.append("metrics.jsonl", {"epoch": 7})
        assert folder.metrics()[-1] == {"epoch": 7}
        assert path.read_text().endswith('{"epoch": 7}\n')
        assert "epo{" not in path.read_text()


def test_a_training_whose_disk_fills_up_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    training = quiet(Small(), plan(tmp_path))
    with monkeypatch.context() as patch:
        # The weights and the metrics of the first epoch are written, its checkpoint is not.
        broken(patch, Faulty(14, stays=True))
        with pytest.raises(db.StorageError, match=r"cannot be written: No space left on device"):
            training.run()
    names = {entry.name for entry in (tmp_path / "run").iterdir()}
    assert not any(name.endswith(".part") or name == "lock" for name in names)
    outcome = quiet(Small(), plan(tmp_path), resume=tmp_path / "run").run()
    quiet(Small(), plan(tmp_path, "whole")).run()
    whole, resumed = (RunFolder(tmp_path / name).read_weights()[0] for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert outcome.folder == tmp_path / "run"


def test_a_folder_that_is_removed_while_it_trains_is_one_error(tmp_path):
    training = quiet(Small(), plan(tmp_path))
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(db.StorageError, match=r"run/.* cannot be written: No such file"):
        training.run()
    assert RunFolder.open(tmp_path / "elsewhere").read_checkpoint()["position"]["epoch"] == 0
