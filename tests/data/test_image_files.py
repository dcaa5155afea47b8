"""Which files of a folder are images, and what is said of the others and of folders that are none."""

import os
import re
import signal
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

import dynamicblocks as db
from dynamicblocks.data import load_dataset
from dynamicblocks.data.images.files import IMAGE_ENDINGS, LeftOut, find_files, fingerprint
from dynamicblocks.data.images.loading import loaded
from dynamicblocks.errors import ProcessError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(root, **options):
    left_out = LeftOut(root)
    return [str(path.relative_to(root)) for path in find_files(root, left_out, **options)], str(left_out)


def test_images_are_found_in_subfolders_with_every_ending_in_any_case(tmp_path):
    names = [f"{number}{ending}" for number, ending in enumerate(IMAGE_ENDINGS)]
    names += ["A.PNG", "B.JpG", "deep/er/c.tiff", "deep.png/d.png", "e.f.png"]
    files, left_out = found(touch(tmp_path, *names))
    assert sorted(files) == sorted(names)
    assert left_out == ""


def test_what_is_left_out_is_counted_by_its_reason(tmp_path):
    hidden = [".DS_Store", "._a.png", ".git/x.png", "__MACOSX/._a.png", "Thumbs.db", ".ipynb_checkpoints/a.png"]
    touch(tmp_path, "a.png", "notes.txt", "b.png.part", "c", *hidden, "sub/desktop.ini")
    files, left_out = found(tmp_path)
    assert files == ["a.png"]
    assert left_out == ("7 hidden (.DS_Store, ._a.png, .git, ...); 3 with other endings (b.png.part, c, notes.txt)")


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    touch(tmp_path, "b.png", "a/z.png", "a.png", "a-b/x.png", "B.png", "c/a.png")
    usual = found(tmp_path)
    scan = os.scandir

    class Reversed(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Reversed(list(scan(path))[::-1]))
    assert found(tmp_path) == usual
    assert usual[0] == ["B.png", "a/z.png", "a-b/x.png", "a.png", "b.png", "c/a.png"]


def test_links_are_followed_once_and_end(tmp_path):
    """To files, to a folder elsewhere, round in a circle, to nothing, to itself, and to a folder that lies here."""
    elsewhere = touch(tmp_path / "elsewhere", "x.png", "sub/y.png")
    root = touch(tmp_path / "root", "real/a.png")
    (root / "file.png").symlink_to(elsewhere / "x.png")
    (root / "abroad").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere)
    (root / "real" / "up").symlink_to(root)
    (root / "a twin of real").symlink_to(root / "real")
    (root / "lost.png").symlink_to(root / "nothing.png")
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.png")
    files, left_out = found(root)
    assert files == ["abroad/sub/y.png", "abroad/x.png", "file.png", "real/a.png"]
    assert "3 broken links, or no files (lost.png, pipe.png, self.png)" in left_out
    assert "3 links to folders that are read already (a twin of real, again, real/up)" in left_out


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "sub/a.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(db.StorageError, match=r"the folder .*/sub cannot be read: Permission denied$"):
        found(tmp_path)
    monkeypatch.undo()
    with pytest.raises(db.StorageError, match="no such place cannot be read: No such file"):
        found(tmp_path / "no such place")


def write(root, parts=("train", "val"), classes=("a", "b"), count=4):
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(root / part / name / f"{number}.png")
    return root


def load(root, **options):
    return load_dataset(f"imagefolder:{root}", **{"size": 8, "validation": 0.25, **options})


def test_the_note_says_what_was_left_out(tmp_path):
    write(tmp_path)
    touch(
        tmp_path, "README", "train/labels.csv", "train/stray.png", "train/.DS_Store", "train/a/b.txt", "val/a/._0.png"
    )
    Image.new("L", (8, 8)).save(tmp_path / "val" / "a" / "x.gif")
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 9)
    assert (
        "left out: 2 beside the folders of the classes (train/labels.csv, train/stray.png); 2 hidden (train/.DS_Store, "
        "val/a/._0.png); 1 with other endings (train/a/b.txt)"
    ) in data.note
    assert "1 are .gif, .tif, .tiff, of which the first image counts" in data.note


def test_the_note_tells_lists_of_files_apart(tmp_path):
    def list_of(root):
        return re.search(r"list of files (\w{16})", load(root).note)[1]

    first, second = list_of(write(tmp_path / "one")), list_of(write(tmp_path / "two"))
    assert first == second
    (tmp_path / "two" / "val" / "a" / "0.png").rename(tmp_path / "two" / "val" / "a" / "9.png")
    assert list_of(tmp_path / "two") != first
    assert fingerprint(["a", "b"]) != fingerprint(["ab", ""])


def test_names_that_are_no_text_are_read_and_shown(tmp_path):
    """Bytes of no UTF-8, and the end of a line: neither stops a note from being printed and stored."""
    write(tmp_path)
    for number, name in enumerate((b"\xff\xfe.png", b"new\nline.png")):
        (tmp_path / "val" / "a" / f"{number}.png").rename(tmp_path / "val" / "a" / os.fsdecode(name))
    touch(tmp_path / "val" / "b", os.fsdecode(b"\xff\n.txt"))
    for part in ("train", "val"):
        (tmp_path / part / "b").rename(tmp_path / part / os.fsdecode(b"b\xe9"))
    data = load(tmp_path)
    assert len(data.test) == 8
    assert data.classes == ("a", r"b\udce9")
    assert r"b\udce9/\udcff\n.txt" in data.note
    data.note.encode("utf-8")
    list(data.test.stream([torch.arange(8)]))


def layout_error(root):
    with pytest.raises(db.StorageError) as error:
        load(root)
    message = str(error.value)
    assert "\n" not in message
    assert "the layout is PATH/train/CLASS/*.jpg" in message
    return message


def test_what_is_missing_in_a_folder_is_said(tmp_path):
    assert "none does not exist" in layout_error(tmp_path / "none")
    assert "a.zip is a file, no folder" in layout_error(touch(tmp_path / "x", "a.zip") / "a.zip")
    touch(tmp_path / "flat", "train/0.png", "train/1.png", "val/0.png")
    message = layout_error(tmp_path / "flat")
    assert "flat/train must hold a folder for each of at least two classes, found none, and 2 images" in message
    assert "found a: " in layout_error(write(tmp_path / "one", classes=("a",)))
    touch(tmp_path / "empty" / "train")
    touch(tmp_path / "half", "train/a/0.png", "train/b/0.png", "val/0.png")
    assert "half/val must hold a folder for each" in layout_error(tmp_path / "half")
    write(tmp_path / "other", parts=("val",), classes=("a", "c"))
    write(tmp_path / "other", parts=("train",))
    assert "they differ in b, c" in layout_error(tmp_path / "other")
    write(tmp_path / "outer" / "inner")
    assert "found none of them, but inner; did you mean" in layout_error(tmp_path / "outer")
    assert "outer/inner?" in layout_error(tmp_path / "outer")
    message = layout_error(write(tmp_path / "classes", parts=("cat", "dog")))
    assert "found none of them, but cat, dog: " in message
    assert "found train, valid: " in layout_error(write(tmp_path / "names", parts=("train", "valid")))
    write(tmp_path / "twice" / "train")
    write(tmp_path / "twice" / "val")
    assert "twice/train must hold a folder for each of at least two classes, found train, val; did you mean" in (
        layout_error(tmp_path / "twice")
    )


def test_a_class_without_images_is_named(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "val" / "b").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(db.StorageError, match=r"val/b holds no image \(\.jpg, "):
        load(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 7, -4])
def test_images_that_are_too_small_to_show_anything(size, tmp_path):
    with pytest.raises(db.ConfigurationError, match=r"data\.size must be"):
        load(write(tmp_path), size=size)


def one(index):
    return np.zeros((1, 2, 2), np.uint8) + index


def end_oneself(index):
    """One of those who read is killed."""
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return one(index)


def hear_all(index):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return one(index)


def test_a_reader_that_is_killed_is_a_typed_error():
    batches = [torch.tensor([index]) for index in range(4)]
    with pytest.raises(ProcessError, match=r"a process that reads the data was killed.*--hardware\.workers") as error:
        list(loaded(end_oneself, batches, 1, torch.device("cpu")))
    assert "\n" not in str(error.value)


def test_signals_to_the_whole_group_do_not_end_those_who_read():
    """They are for the trainer, which finishes its step with what they read."""
    batches = [torch.tensor([index]) for index in range(4)]
    images = torch.cat(list(loaded(hear_all, batches, 1, torch.device("cpu"))))
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_that_a_reader_was_killed_is_told_once():
    """Not again wherever the program is when another process ends."""
    batches = [torch.tensor([index]) for index in range(4)]
    with pytest.raises(db.StorageError, match="the processes that read data failed") as kept:
        list(loaded(end_oneself, batches, 2, torch.device("cpu")))
    subprocess.run(["true"], check=True)
    assert kept.value
    assert len(list(loaded(one, batches, 1, torch.device("cpu")))) == 4
