"""The official layouts, read from files that the tests write byte by byte."""

import gzip
import re
import tracemalloc

import numpy as np
import pytest
import torch

import dynamicblocks as db
from dynamicblocks.data import load_dataset
from dynamicblocks.data.images.catalogue import Where, read_raw
from dynamicblocks.data.images.datasets import moments
from tests.data_files import archive, idx, write_cifar10, write_cifar100, write_mnist, write_stl10


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """With a local folder nothing is asked of the network."""

    def refuse(*_, **__):
        raise AssertionError("a request was made")

    monkeypatch.setattr("requests.get", refuse)
    monkeypatch.setenv("DYNAMICBLOCKS_DATA", str(tmp_path / "cache"))


def assert_holds(split, images, labels):
    assert torch.equal(split.images, torch.from_numpy(images))
    assert split.labels.tolist() == list(labels)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("FMNIST", "fashion-mnist")])
def test_mnist_and_fashion_mnist(name, folder, zipped, tmp_path):
    written = write_mnist(tmp_path / folder, zipped)
    for data_dir in (tmp_path, tmp_path / folder):
        raw = read_raw(name, Where(str(data_dir)))
        for split, part in ((raw.train, "train"), (raw.test, "t10k")):
            images, labels = written[part]
            assert_holds(split, images[:, None], labels)


def test_cifar10(tmp_path):
    written = write_cifar10(tmp_path / "cifar-10-batches-bin")
    raw = read_raw("CIFAR10", Where(str(tmp_path)))
    batches = [written[f"data_batch_{number}"] for number in range(1, 6)]
    assert_holds(raw.train, *(np.concatenate(parts) for parts in zip(*batches, strict=True)))
    assert_holds(raw.test, *written["test_batch"])
    assert raw.classes[3] == "class3"


def test_cifar100_has_fine_labels(tmp_path):
    written = write_cifar100(tmp_path / "cifar-100-binary")
    raw = read_raw("cifar100", Where(str(tmp_path / "cifar-100-binary")))
    assert_holds(raw.train, *written["train"])
    assert_holds(raw.test, *written["test"])


def test_stl10_is_stored_column_by_column_and_counts_from_one(tmp_path):
    written = write_stl10(tmp_path / "stl10_binary")
    raw = read_raw("stl10", Where(str(tmp_path)))
    assert_holds(raw.train, *written["train"])
    assert_holds(raw.test, *written["test"])


def test_an_archive_in_the_local_folder_is_unpacked_to_the_cache(tmp_path):
    written = write_cifar10(tmp_path / "made" / "cifar-10-batches-bin")
    content, _ = archive(tmp_path / "made" / "cifar-10-batches-bin")
    local = tmp_path / "local"
    local.mkdir()
    (local / "cifar-10-binary.tar.gz").write_bytes(content)
    assert_holds(read_raw("cifar10", Where(str(local))).test, *written["test_batch"])
    assert [path.name for path in local.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_a_whole_data_set_is_split_and_described(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    data = load_dataset("CIFAR10", 0.25, data_dir=str(tmp_path))
    assert (len(data.train), len(data.validation), len(data.test)) == (150, 50, 40)
    assert torch.bincount(data.validation.labels).tolist() == [5] * 10
    pixels = data.train.images.double()
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())
    assert data.augmentation.flip
    assert data.augmentation.shift == 4
    assert f"local copy in {tmp_path}" in data.note


def test_a_channel_that_never_changes_has_deviation_one():
    from dynamicblocks.data import MemorySplit

    assert moments(MemorySplit(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(4))) == ((7.0,), (1.0,))


def failure(name, data_dir):
    with pytest.raises(db.StorageError) as error:
        read_raw(name, Where(str(data_dir)))
    return str(error.value)


def test_truncated_files_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    whole = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(whole[:-1000])
    message = failure("cifar10", tmp_path)
    assert "data_batch_3.bin has 121,920 bytes, no whole number of records of 3,073 bytes" in message
    (folder / "data_batch_3.bin").write_bytes(b"")
    assert "has 0 bytes" in failure("cifar10", tmp_path)


def test_truncated_idx_files_are_named(tmp_path):
    folder = tmp_path / "mnist"
    write_mnist(folder, zipped=False)
    images = folder / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    assert "train-images-idx3-ubyte says that it holds 60 x 28 x 28 = 47,040 bytes, but 47,039" in failure(
        "mnist", tmp_path
    )
    images.write_bytes(whole + b"x")
    assert "but 47,041" in failure("mnist", tmp_path)
    images.write_bytes(whole[:7])
    assert "begins with 00 00 08 03" in failure("mnist", tmp_path)
    images.write_bytes(b"\x00\x00\x0d\x03" + whole[4:])
    assert "begins with 00 00 0d 03 where an idx file of 3-dimensional bytes has 00 00 08 03" in failure(
        "mnist", tmp_path
    )


def test_test_images_have_the_size_of_the_training_images(tmp_path):
    write_mnist(tmp_path / "mnist", zipped=False)
    (tmp_path / "mnist" / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((20, 14, 14))))
    assert re.search(r"t10k-\S+ holds images of 14 x 14 pixels, \S+train-\S+ of 28 x 28;", failure("mnist", tmp_path))


def test_headers_are_believed_before_anything_is_unpacked(tmp_path, monkeypatch):
    """Behind the header of 20 small images lie 16 million bytes: no more is unpacked than it says."""
    write_mnist(tmp_path / "mnist")
    images = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(idx(np.zeros((20, 28, 28))) + bytes(2**24)))
    tracemalloc.start()
    assert "= 15,680 bytes, but 15,681 or more follow" in failure("mnist", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    images.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12))
    assert "more than the 134,217,728 that are read" in failure("mnist", tmp_path)
    images.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + (5000).to_bytes(4, "big") * 2 + (5).to_bytes(4, "big")))
    assert "= 125,000,000 bytes, but 0 follow" in failure("mnist", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_files_larger_than_official_ones_are_refused_unread(tmp_path):
    """Holes in a file take no room on the disk."""
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    with (folder / "test_batch.bin").open("r+b") as file:
        file.truncate(3073 * 2**20)
    assert "test_batch.bin has 3,222,274,048 bytes, more than the 268,435,456" in failure("cifar10", tmp_path)
    write_cifar10(tmp_path / "again")
    (folder / "test_batch.bin").write_bytes((tmp_path / "again" / "test_batch.bin").read_bytes())
    with (folder / "batches.meta.txt").open("r+b") as file:
        file.truncate(2**32)
    failure("cifar10", tmp_path)


def test_truncated_gzip_files_are_named(tmp_path):
    folder = tmp_path / "mnist"
    write_mnist(folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[: len(whole) // 2])
    assert "t10k-labels-idx1-ubyte.gz is truncated or no gzip file" in failure("mnist", tmp_path)
    labels.write_bytes(gzip.compress(b"something else"))
    assert "begins with 73 6f 6d 65" in failure("mnist", tmp_path)


def test_labels_out_of_range_are_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10(folder)
    content = bytearray((folder / "test_batch.bin").read_bytes())
    content[2 * 3073] = 10
    (folder / "test_batch.bin").write_bytes(content)
    assert "test_batch.bin: image 2 has class 10 where classes are 0 to 9" in failure("cifar10", tmp_path)


def test_an_stl10_label_of_zero_is_out_of_range(tmp_path):
    write_stl10(tmp_path / "stl10_binary")
    (tmp_path / "stl10_binary" / "train_y.bin").write_bytes(bytes(40))
    assert "image 0 has class -1" in failure("stl10", tmp_path)


def test_images_and_labels_that_do_not_belong_together(tmp_path):
    write_stl10(tmp_path / "stl10_binary")
    (tmp_path / "stl10_binary" / "train_y.bin").write_bytes(bytes([1] * 39))
    assert "holds 40 images but" in failure("stl10", tmp_path)


def test_class_names_are_counted(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("cat\ndog\n")
    assert "batches.meta.txt names 2 classes, expected 10" in failure("cifar10", tmp_path)


def test_missing_files_say_where_they_were_looked_for(tmp_path):
    message = failure("cifar10", tmp_path / "none")
    assert f"neither {tmp_path / 'none' / 'cifar-10-batches-bin'} nor {tmp_path / 'none'} holds" in message
    assert "data_batch_1.bin" in message
    assert "--data.data_dir" in message


def test_a_folder_of_another_data_set_with_the_same_names_is_not_taken(tmp_path):
    write_mnist(tmp_path / "mnist")
    assert "neither" in failure("fashion-mnist", tmp_path / "mnist")


@pytest.mark.parametrize(("name", "options"), [("digits", {"size": 8})])
def test_options_of_other_data_sets_are_refused(name, options):
    with pytest.raises(db.ConfigurationError, match="is for imagefolder:PATH"):
        load_dataset(name, **options)


def test_unknown_data_sets(tmp_path):
    with pytest.raises(db.ConfigurationError, match="did you mean 'cifar10'"):
        load_dataset("cifar11")
    with pytest.raises(db.ConfigurationError, match="imagefolder needs a folder"):
        load_dataset("imagefolder:")
    with pytest.raises(db.ConfigurationError, match="names its folder itself"):
        load_dataset("imagefolder:here", data_dir=str(tmp_path))
