"""Whether there are as many free cores as threads: readings of the system in, a line or none out."""

import os

import pytest
import torch

from dynamicblocks.training import free_cores
from dynamicblocks.training.free_cores import Cores, Watch, advice, busy_seconds, quota

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("cores", "threads", "said"),
    [
        (Cores(8), 8, ""),
        (Cores(8, busy=1.9), 8, ""),
        (Cores(2, quota=0.5), 1, ""),
        (Cores(64, quota=48.0), 64, ""),
        (Cores(2, busy=2.0), 2, "OMP_NUM_THREADS=1 "),
        (Cores(2, busy=1.3), 2, "other programs keep 1.3 of 2 busy"),
        (Cores(64, quota=4.0), 64, "OMP_NUM_THREADS=4 "),
        (Cores(64, quota=4.0), 64, "a container gives 4)"),
        (Cores(16, quota=0.5), 16, "OMP_NUM_THREADS=1 "),
        (Cores(2), 8, "(2 to run on)"),
        (Cores(8, quota=6.0, busy=7.0), 8, "share 1 free cores"),
    ],
)
def test_fewer_free_cores_than_threads_are_told_with_the_remedy(cores, threads, said):
    line = cores.advice(threads)
    assert said in line
    assert bool(line) == bool(said)
    assert "\n" not in line


STAT = """cpu  900 50 100 9000 3 4 5 6 0 0
cpu0 600 50 60 4000 1 2 3 4 0 0
cpu1 300 0 40 5000 2 2 2 2 0 0
cpu10 7 0 0 0 0 0 0 0 0 0
intr 1
"""


def test_seconds_of_the_cores_at_hand_are_read():
    assert busy_seconds(STAT, {0}) == pytest.approx((600 + 60 + 2 + 3 + 4) / TICKS)
    assert busy_seconds(STAT, {0}, polite=False) == pytest.approx((650 + 60 + 2 + 3 + 4) / TICKS)
    assert busy_seconds(STAT, {0, 1}) == pytest.approx((669 + 346) / TICKS)
    assert busy_seconds("", {0}) is None
    assert busy_seconds("cpu0 1 2", {0}) is None


def system(tmp_path, membership, files):
    """Where control groups are read: what the process belongs to, and the folders."""
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return quota(tmp_path / "self", tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("membership", "files", "found"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/user/job\n", {"user/cpu.max": "150000 100000", "user/job/cpu.max": "max 100000"}, 1.5),
        ("0::/user/job\n", {"user/cpu.max": "300000 100000", "user/job/cpu.max": "100000 50000"}, 2.0),
        ("0::/not/seen\n", {"cpu.max": "400000 100000"}, 4.0),
        ("0::/../other\n", {"cpu.max": "400000 100000"}, None),
        ("4:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000"}, None),
        (
            "4:cpu,cpuacct:/job\n0::/\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "50000", "cpuset/cpu.cfs_period_us": "100000"}, None),
        ("nonsense\n", {"cpu.max": "what"}, None),
    ],
)
def test_what_control_groups_allow(tmp_path, membership, files, found):
    assert system(tmp_path, membership, files) == found


def test_no_control_groups(tmp_path):
    assert quota(tmp_path / "none", tmp_path) is None


def test_what_others_took_is_what_was_computed_less_what_this_process_did(monkeypatch, tmp_path):
    monkeypatch.setattr(free_cores, "_allowed", lambda: {0, 1})
    monkeypatch.setattr(free_cores, "quota", lambda: None)
    monkeypatch.setattr(free_cores, "_niceness", lambda: 0)
    monkeypatch.setattr(free_cores, "STAT", tmp_path / "stat")

    def at(clock, own, busy):
        monkeypatch.setattr("time.monotonic", lambda: clock)
        monkeypatch.setattr("time.process_time", lambda: own)
        ticks = int(busy * TICKS)
        (tmp_path / "stat").write_text(f"cpu0 {ticks} 0 0 9 0 0 0 0 0 0\ncpu1 0 0 0 9 0 0 0 0 0 0\n")

    at(clock=100.0, own=3.0, busy=500.0)
    watch = Watch()
    at(clock=104.0, own=4.0, busy=507.0)
    assert watch.cores() == Cores(2, None, 1.5)
    at(clock=104.0, own=11.0, busy=507.0)  # all by this process
    assert watch.cores() == Cores(2, None, 0.0)
    at(clock=100.1, own=3.0, busy=500.2)  # too short to tell
    assert watch.cores() == Cores(2, None, 0.0)
    (tmp_path / "stat").unlink()
    assert watch.cores() == Cores(2, None, 0.0)


def test_only_a_training_of_one_process_on_a_cpu_is_judged(monkeypatch):
    monkeypatch.setattr(Watch, "cores", lambda self: Cores(2, busy=2.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    watch = Watch()
    assert "OMP_NUM_THREADS=1 dynamicblocks train ..." in advice(watch, torch.device("cpu"), 1)
    assert advice(watch, torch.device("cpu"), 2) == ""
    assert advice(watch, torch.device("cuda"), 1) == ""
