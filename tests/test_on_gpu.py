"""What measures the rows of the experiments, in calls that go on from each other."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dynamicblocks.data.images.formats import read_cifar
from tests.experiment_scripts import EXPERIMENTS, load_script


def little_cifar10(folder, images, test):
    """Random images in the official layout."""
    target = folder / "cifar-10-batches-bin"
    target.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{number}", images) for number in range(1, 6)), ("test_batch", test)]:
        records = draw.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 10
        records.tofile(target / f"{name}.bin")
    (target / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    return folder


def test_rows_are_tried_on_a_cpu_in_steps_and_stay_out_of_the_results(tmp_path, capsys):
    data = little_cifar10(tmp_path / "data", images=120, test=20)
    before = {path: path.stat().st_mtime_ns for path in (EXPERIMENTS / "results").iterdir()}
    where = ["--data_dir", str(data), "--output", str(tmp_path / "runs")]
    trial = ["--accelerator", "cpu", "--steps", "2", "--only", "cifar10_euler_2", "cifar100_wide_euler_8"]
    assert load_script("on_gpu").main([*where, *trial]) == 0
    said = capsys.readouterr().out
    assert "cifar10: complete" in said
    assert "cifar100: incomplete, without train.bin, test.bin, fine_label_names.txt" in said
    last = said.splitlines()[-2:]
    assert last[0].split() == ["cifar10_euler_2", "measured"]
    assert last[1].endswith("waits for cifar100")
    result = json.loads((tmp_path / "runs/trial/results/cifar10_euler_2.json").read_text())
    published = json.loads((EXPERIMENTS / "results/cifar10_euler_2.json").read_text())
    assert set(result) == set(published)
    assert set(published["epochs"][0]) <= set(result["epochs"][0])
    assert (result["weights"], result["configuration"]["max_steps"]) == (273_210, 2)
    assert result["data"].startswith("CIFAR-10, local copy in the official layout; 588 training and 20 test images")
    assert {path: path.stat().st_mtime_ns for path in (EXPERIMENTS / "results").iterdir()} == before


@dataclass(frozen=True)
class Scripted:
    """A row that a line of Python measures; ``{}`` stands for the file of its result."""

    name: str
    line: str
    minutes: float = 0.0
    resumes: bool = True
    alone: bool = False
    needs: str = ""
    folder: Path = Path()

    @property
    def published(self):
        return self.folder / f"{self.name}.json"

    def result(self, setting):
        return setting.state / "results" / f"{self.name}.json"

    def measured(self, path):
        return path.exists()

    def done(self, setting):
        return self.result(setting).exists()

    def waits(self, setting):
        return self.needs

    def progress(self, setting):
        return "somewhere", self.minutes

    def command(self, setting):
        return ["-c", self.line.format(str(self.result(setting)))]


TOUCH = "import pathlib, time; pathlib.Path(r'{}').write_text(str(time.monotonic()))"


def test_what_finishes_is_kept_what_fails_is_said_and_what_is_too_long_waits(tmp_path, capsys):
    script, rows = load_script("on_gpu"), load_script("rows")
    setting = rows.Setting(tmp_path / "runs", together=2)
    published = tmp_path / "published"
    published.mkdir()
    plan = [
        Scripted("good", TOUCH, folder=published),
        Scripted("bad", "raise SystemExit('no such thing')", folder=published),
        Scripted("long", TOUCH, minutes=5, resumes=False, folder=published),
        Scripted("hungry", TOUCH, needs="waits for cifar10", folder=published),
        Scripted("timed", TOUCH, alone=True, folder=published),
    ]
    assert not script.measure(plan, setting, time.monotonic() + 60)
    assert {path.stem for path in published.iterdir()} == {"good", "timed"}
    said = capsys.readouterr().out
    assert "bad: no result, exit status 1" in said
    assert "no such thing" in said
    # It began when nothing else was running, and what is there is not measured again.
    assert said.index("timed: starts") > max(said.index("good: measured"), said.index("bad: no result"))
    assert script.measure(plan[:1], setting, time.monotonic() + 60)
    assert capsys.readouterr().out == ""


def test_a_call_ends_with_all_that_its_processes_started(tmp_path, monkeypatch):
    script, rows = load_script("on_gpu"), load_script("rows")
    started = tmp_path / "started"
    line = (
        "import pathlib, subprocess, time; child = subprocess.Popen(['sleep', '100']); "
        f"beside = pathlib.Path(r'{started}.part'); beside.write_text(str(child.pid)); beside.rename(r'{started}'); "
        "time.sleep(100)"
    )
    # The time is over as soon as the process has started another one.
    clock = SimpleNamespace(monotonic=lambda: float(started.exists()), sleep=time.sleep)
    monkeypatch.setattr(script, "time", clock)
    assert script.measure([Scripted("endless", line)], rows.Setting(tmp_path), end=1.0)
    while alive(int(started.read_text())):
        time.sleep(0.05)


def alive(process):
    """Whether it has not ended; one that nobody asked how it ended is listed, too, as a zombie."""
    state = Path("/proc", str(process), "stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_without_a_checkpoint_begins_anew_and_half_written_files_go(tmp_path):
    script = load_script("on_gpu")
    for name in ("young", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    (tmp_path / "old" / "checkpoint.safetensors").touch()
    (tmp_path / "old" / ".checkpoint.safetensors.123.part").touch()
    for name in ("young", "old", "none"):
        script.forget_remains(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name for path in (tmp_path / "old").iterdir()} == {"run.json", "checkpoint.safetensors"}


def test_rows_know_their_state(tmp_path):
    rows = load_script("rows")
    row = rows.Trained("cifar100_wide_euler_8", 24)
    if row.published.exists():
        pytest.skip("it is measured")
    setting = rows.Setting(tmp_path, missing={"cifar100": ["train.bin"]})
    assert row.waits(setting) == "waits for cifar100"
    assert row.progress(setting) == ("not measured", 24)
    run = tmp_path / row.name
    run.mkdir()
    (run / "checkpoint.safetensors").touch()
    entries = [{"epoch": epoch, "seconds": 60.0 + 30 * epoch} for epoch in range(20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert row.progress(setting) == ("begun: 20 of 120 epochs", 50.0)
    row.result(setting).parent.mkdir()
    row.result(setting).touch()
    assert row.progress(setting) == ("measured", 0.0)
    # A trial does not take what was published for its own.
    known = rows.Trained("cifar10_euler_2", 9)
    assert known.done(setting)
    assert not known.done(rows.Setting(tmp_path, steps=2))


def test_rows_name_configurations_and_benchmarks_that_exist(tmp_path):
    rows = load_script("rows")
    for row in rows.ROWS.values():
        if isinstance(row, rows.Compressed):
            assert set(row.runs) <= set(rows.ROWS)
            assert row.waits(rows.Setting(tmp_path)).startswith("waits for")
            (tmp_path / row.runs[0]).mkdir()
            (tmp_path / row.runs[0] / "result.json").touch()
        assert Path(row.command(rows.Setting(tmp_path, steps=1))[0]).exists()
        assert not isinstance(row, rows.Trained) or (EXPERIMENTS / "configs" / f"{row.name}.yaml").exists()


def test_cifar_comes_in_parts(tmp_path):
    script = load_script("shards")
    draw = np.random.default_rng(0)
    script.DATA_SETS["cifar100"].images.update({"train.bin": 5, "test.bin": 2})
    script.DATA_SETS["cifar10"].images.update(dict.fromkeys(script.DATA_SETS["cifar10"].images, 2))
    images = {
        name: draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        for name, count in {"train_1": 2, "train_2": 2, "train_10": 1, "test": 2}.items()
    }
    labels = {name: draw.integers(0, 100, len(each)) for name, each in images.items()}

    def shard(folder, *names):
        (folder / "cifar100").mkdir(parents=True)
        for name in names:
            encoded = []
            for pixels in images[name]:
                path = tmp_path / "image.png"
                Image.fromarray(pixels).save(path)
                encoded.append(np.frombuffer(path.read_bytes(), np.uint8))
            sizes = [len(each) for each in encoded]
            np.savez(folder / "cifar100" / name, bytes=np.concatenate(encoded), sizes=sizes, labels=labels[name])
        return folder

    data, whole = tmp_path / "data", script.DATA_SETS["cifar100"]
    first = shard(tmp_path / "first", "train_2", "test")
    assert list(script.bring(first, data)) == ["cifar100: test.npz brought", "cifar100: train_2.npz brought"]
    assert whole.missing(data) == ["train.bin", "fine_label_names.txt"]
    assert list(script.bring(first, data)) == []
    second = shard(tmp_path / "second", "train_10", "train_1")
    (second / "cifar100" / "classes.txt").write_text("\n".join(f"class{number}" for number in range(100)))
    assert len(list(script.bring(second, data))) == 2
    assert whole.missing(data) == []
    assert list(script.bring(second, data)) == []
    found = read_cifar(data / "cifar-100-binary" / "train.bin", classes=100, label_bytes=2)
    order = ("train_1", "train_2", "train_10")
    assert torch.equal(found.labels, torch.from_numpy(np.concatenate([labels[name] for name in order])))
    expected = np.concatenate([images[name] for name in order]).transpose(0, 3, 1, 2)
    assert torch.equal(next(found.stream([torch.arange(5)])), torch.from_numpy(expected))
    # A file that ends early is not taken for a whole one, unless that is asked for.
    os.truncate(data / "cifar-100-binary" / "train.bin", 3074)
    assert whole.missing(data) == ["train.bin"]
    assert whole.missing(data, whole=False) == []
