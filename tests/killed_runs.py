"""Runs that are killed and resumed, for the tests; how two of them differ."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from dynamicblocks.training.storage import read_tree

WORKER = Path(__file__).with_name("killed_worker.py")


class Commands:
    """Command lines, each in a process of its own, which a signal may reach (see the worker)."""

    def __init__(self):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._worker = subprocess.Popen([sys.executable, str(WORKER)], stdin=pipe, stdout=pipe, env=env, text=True)

    def __call__(self, folder, *arguments, **when):
        request = {"arguments": [str(each) for each in arguments], "folder": str(folder), **when}
        print(json.dumps(request), file=self._worker.stdin, flush=True)
        return json.loads(self._worker.stdout.readline())

    def close(self):
        with self._worker:
            self._worker.stdin.close()


def assert_same_runs(whole, other):
    """Equal to the last bit, but for what a stopwatch says, and with nothing half-written."""
    for kept in ("checkpoint.safetensors", "model.safetensors"):
        assert_equal(read(whole / kept), read(other / kept), kept)
    lines, others = ((run / "metrics.jsonl").read_text().splitlines() for run in (whole, other))
    assert [untimed(json.loads(line)) for line in lines] == [untimed(json.loads(line)) for line in others]
    result, its = (untimed(json.loads((run / "result.json").read_text())) for run in (whole, other))
    assert result == its
    assert not list(other.parent.rglob("*.part"))


def read(path):
    """The tensors of a file; of a checkpoint everything but times."""
    if path.name.startswith("checkpoint"):
        tree = read_tree(path)
        del tree["position"]["seconds"], tree["position"]["grown"]
        return tree
    return load_file(path)


def untimed(entry):
    """Without what a stopwatch says."""
    if isinstance(entry, dict):
        kept = {name: value for name, value in entry.items() if not name.endswith(("seconds", "_per_second"))}
        return {name: untimed(value) for name, value in kept.items()}
    return [untimed(each) for each in entry] if isinstance(entry, list) else entry


def assert_equal(one, other, where=""):
    """Equal trees, to the last bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_equal(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, (each, beside) in enumerate(zip(one, other, strict=True)):
            assert_equal(each, beside, f"{where}[{place}]")
    else:
        assert one == other, where
