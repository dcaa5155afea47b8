"""One training at a time in a folder, however the one before ended."""

import errno
import os
import subprocess
import sys
import time

import pytest

import dynamicblocks as db
from dynamicblocks.cli.main import main
from dynamicblocks.training import RunFolder, lock
from dynamicblocks.training.lock import Lock
from dynamicblocks.training.runs import recorded
from tests.training.small_task import Small, plan, quiet
from tests.trainings import classification

# Another process that holds a lock, without what takes long to import.
HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("elsewhere", os.getpid(), file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held_by_another():
    processes = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_training_is_refused_by_the_host_and_process_of_the_first(tmp_path, held_by_another):
    quiet(Small(), plan(tmp_path))
    run = tmp_path / "run"
    other = held_by_another(run)
    with pytest.raises(db.StorageError, match=f"run is in the hands of process {other.pid} on elsewhere"):
        quiet(Small(), plan(tmp_path), resume=run)
    assert RunFolder(run).read_checkpoint()["position"]["epoch"] == 0  # whoever only reads may
    # Killed, it holds nothing any more, though its file is there.
    other.kill()
    other.wait()
    assert (run / "lock").exists()
    training = quiet(Small(), plan(tmp_path), resume=run)
    assert str(os.getpid()) in (run / "lock").read_text()
    training.run()
    assert not (run / "lock").exists()


def test_the_command_says_so_in_a_line(tmp_path, held_by_another, capsys):
    RunFolder.create(tmp_path / "run", recorded(*classification()), {})
    held_by_another(tmp_path / "run")
    assert main(["train", "--resume", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_two_trainings_of_one_process_do_not_share_a_folder(tmp_path):
    first = quiet(Small(), plan(tmp_path))
    with pytest.raises(db.StorageError, match=f"process {os.getpid()} on"):
        quiet(Small(), plan(tmp_path), resume=tmp_path / "run")
    first.run()  # which is through then
    quiet(Small(), plan(tmp_path), resume=tmp_path / "run")
    # That one is gone, since nobody refers to it.
    quiet(Small(), plan(tmp_path), resume=tmp_path / "run").run()


def test_a_name_is_made_by_one_process_at_a_time(tmp_path, held_by_another):
    part = tmp_path / ".run.part"
    part.mkdir()
    other = held_by_another(part)
    with pytest.raises(db.StorageError, match=f"in the hands of process {other.pid}"):
        RunFolder.create(tmp_path / "run", {}, {})
    assert part.exists()
    other.kill()
    other.wait()
    (part / "config.yaml").write_text("begun")
    RunFolder.create(tmp_path / "run", {"epochs": 3}, {})
    assert (tmp_path / "run" / "config.yaml").read_text() == "epochs: 3\n"
    assert not part.exists()


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path, held_by_another):
    left, alive, foreign, fresh = (tmp_path / f".{name}.part" for name in ("left", "alive", "foreign", "fresh"))
    for folder in (left, alive, foreign, fresh):
        folder.mkdir()
    (left / "lock").touch()
    (left / ".run.json.123.part").touch()
    (foreign / "letter.txt").touch()
    (foreign / "lock").touch()
    held_by_another(alive)
    RunFolder.create(tmp_path / "run", {}, {})
    assert {entry.name for entry in tmp_path.iterdir()} == {".alive.part", ".foreign.part", ".fresh.part", "run"}
    long_ago = time.time() - 2 * 60
    os.utime(fresh, (long_ago, long_ago))
    RunFolder.create(tmp_path / "other", {}, {})
    assert not fresh.exists()


def test_parts_in_a_run_go_when_it_is_resumed(tmp_path):
    quiet(Small(), plan(tmp_path)).run()
    part = tmp_path / "run" / ".checkpoint.safetensors.123.part"
    part.touch()
    quiet(Small(), plan(tmp_path), resume=tmp_path / "run")
    assert not part.exists()


def test_where_there_are_no_locks_a_training_goes_on_and_says_so(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    mine = Lock()
    mine.acquire(tmp_path)
    assert "knows no locks" in mine.note
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_holds_nothing(tmp_path):
    mine = Lock()
    mine.acquire(tmp_path)
    child = os.fork()
    if child == 0:  # what a killed parent leaves behind
        time.sleep(60)
        os._exit(0)
    try:
        mine.release()
        other = Lock()
        other.acquire(tmp_path)
        other.release()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
