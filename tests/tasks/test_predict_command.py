"""``dynamicblocks predict``: what it shows and writes, and that it leaves nothing half-written."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dynamicblocks.cli import predicted
from dynamicblocks.cli.main import main
from dynamicblocks.data.segmentation.masks import read_mask
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.tasks import Run
from tests.training.small_task import Small


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Three digits as files, beside what is no image, in the working directory."""
    for place, image in enumerate(load_digits().images[:3]):
        path = tmp_path / "images" / ("deeper" if place == 2 else ".") / f"digit {place} [bold].png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(path)
    (tmp_path / "images" / ".hidden.png").write_text("nobody's")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


NAMES = ["deeper/digit 2 [bold].png", "digit 0 [bold].png", "digit 1 [bold].png"]


def predict(run, *arguments):
    try:
        return main(["predict", str(run.folder.path), *map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def test_classes_are_shown_with_whole_names(digits, images, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert predict(digits, "images") == 0
    shown = capsys.readouterr().out
    found = digits.predict([images / name for name in NAMES])
    for name, label, chances in zip(NAMES, found.names, found.probabilities, strict=True):
        line = next(line for line in shown.splitlines() if f"images/{name}" in line)
        best, second = chances.topk(2).values.tolist()
        assert line.split(".png")[1].split()[:2] == [label, f"{best:.1%}"]
        assert line.endswith(f"{second:.1%}")


def test_all_probabilities_are_written(digits, images, capsys):
    assert predict(digits, "images", "--output", "found.csv", "--batch_size", "2") == 0
    assert "3 predictions written to found.csv" in capsys.readouterr().out
    found = digits.predict(images)
    with Path("found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"images/{name}" for name in NAMES]
    assert [row["class"] for row in rows] == list(found.names)
    for row, chances in zip(rows, found.probabilities, strict=True):
        written = [float(row[f"probability of {name}"]) for name in digits.classes]
        np.testing.assert_allclose(written, chances.numpy(), rtol=1e-5)
        assert float(row["probability"]) == max(written)
    assert predict(digits, "images", "--output", "found.json", "--quiet") == 0
    assert capsys.readouterr().out == ""
    content = json.loads(Path("found.json").read_text())
    assert content["classes"] == list(digits.classes)
    assert [each["label"] for each in content["predictions"]] == found.labels.tolist()
    assert [each["file"] for each in content["predictions"]] == [row["file"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "FILE is missing"),
        (("nowhere.png",), 1, "there is no file nowhere.png"),
        (("images", "text.png"), 1, "text.png cannot be read as an image"),
        (("wide.png",), 2, "wide.png has 9 x 8 pixels"),
        (("images", "--output", "there.csv"), 2, "exists already; choose another, or add --force"),
        (("images", "--output", "folder"), 2, "must be a file, .csv or .json, got folder"),
        (("images", "--output", "nowhere/found.csv"), 1, "there is no folder nowhere"),
        (("images", "--batch_size", "0"), 2, "--batch_size must be a whole number of at least 1"),
        (("images", "--device", "nothing"), 2, "device must be one that is here"),
        (("images", "--force"), 2, "--force does nothing without --output"),
        (("images", "--quiet"), 2, "--quiet does nothing without --output"),
        (("a" * 300,), 1, "there is no file aaa"),
        (("images", "--output", "a" * 300 + ".csv"), 1, "cannot be written"),
        (("images", "--output", "pipe.csv", "--force"), 2, "is neither a file nor a folder"),
        (("pipe.csv",), 1, "pipe.csv is no file"),
    ],
    ids=range(15),
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(digits, images, arguments, code, said, capsys):
    Path("text.png").write_text("no image")
    Path("there.csv").write_text("mine")
    os.mkfifo("pipe.csv")
    Image.new("L", (9, 8)).save("wide.png")
    before = files_in(Path())
    assert predict(digits, *arguments) == code
    out, error = capsys.readouterr()
    assert said in error
    assert out == "" or "predicting" in out
    assert files_in(Path()) == before
    assert Path("there.csv").read_text() == "mine"


def test_nothing_is_imported_before_the_checks(digits, images, monkeypatch, capsys):
    monkeypatch.setattr("dynamicblocks.cli.loading.read", None)
    assert predict(digits, "nowhere.png") == 1
    assert main(["predict", "runs/nowhere", "images"]) == 1
    assert "there is no run folder runs/nowhere" in capsys.readouterr().err


def test_an_unreadable_file_among_many_keeps_what_was_there(digits, images, capsys):
    (images / "text.png").write_text("no image")
    Path("there.csv").write_text("mine")
    assert predict(digits, "images", "--output", "there.csv", "--force", "--batch_size", "1") == 1
    assert "text.png cannot be read" in capsys.readouterr().err
    assert Path("there.csv").read_text() == "mine"
    (images / "text.png").unlink()
    assert predict(digits, "images", "--output", "there.csv", "--force") == 0
    assert Path("there.csv").read_text().startswith("file,class,probability,")


def test_masks_are_written_as_indices(masks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = Path(masks.task.data.name.partition(":")[2]) / "val" / "images"
    Image.new("RGB", (7, 9)).save("small.png")
    assert predict(masks, root, "small.png") == 0  # each of its own size
    shown = capsys.readouterr().out
    assert "7 x 9" in shown
    assert "12 x 10" in shown
    assert predict(masks, root, "small.png", "--output", "found") == 0
    assert files_in(Path("found")) == ["00.png", "01.png", "02.png", "03.png", "small.png"]
    expected = masks.predict(sorted(root.iterdir())).labels
    for place in range(4):
        np.testing.assert_array_equal(read_mask(Path("found") / f"0{place}.png"), expected[place])
    assert read_mask(Path("found/small.png")).shape == (9, 7)
    assert predict(masks, "small.png", "--output", "found") == 2
    assert "exists already" in capsys.readouterr().err
    assert predict(masks, "small.png", "--output", "found", "--force") == 0
    assert len(files_in(Path("found"))) == 5
    assert predict(masks, "small.png", "--output", "found.csv") == 2
    assert "must be a folder" in capsys.readouterr().err
    assert predict(masks, "small.png", root / "00.png", root.parent / "images" / "00.png", "--output", "two") == 2
    assert "would both be 00.png" in capsys.readouterr().err
    assert not Path("two").exists()


def test_a_folder_of_masks_appears_whole_or_not_at_all(masks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Image.new("RGB", (7, 9)).save(f"{name}.png")
    Path("c.png").write_text("no image")
    assert predict(masks, "a.png", "b.png", "c.png", "--output", "found") == 1
    assert "c.png cannot be read" in capsys.readouterr().err
    assert files_in(Path()) == ["a.png", "b.png", "c.png"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert predict(masks, "a.png", "--output", "found") == 1
    assert "No space left" in capsys.readouterr().err
    assert files_in(Path()) == ["a.png", "b.png", "c.png"]
    assert not list(tmp_path.glob(".*"))


def test_fields_are_written(fields, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    inputs = fields.task.fields.test.inputs
    np.savez("first.npz", inputs=inputs.numpy())
    assert predict(fields, "first.npz") == 2
    assert "add --output FOLDER" in capsys.readouterr().err
    assert predict(fields, "first.npz", "--output", "found") == 0
    written = np.load("found/first.npz")["predictions"]
    np.testing.assert_array_equal(written, fields.predict(inputs).values)


def test_a_task_of_ones_own_says_how_files_are_read(digits):
    """Without that, arrays in Python are all that it answers to."""
    task = Small()
    run = Run(digits.folder, task, digits.config, task.build().eval())
    assert run.predict(np.zeros((3, 1, 4, 4), np.float32)).shape == (3, 2)
    assert (run.classes, run.normalisation) == ((), None)
    with pytest.raises(ConfigurationError, match="does not say how files are read"):
        predicted.inputs_of(run, ["file.png"])
